"""The files of the repository as they stand at a commit."""

import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from the_block_llm.datasets.parquet_table import write_part
from the_block_llm.languages import language_of
from the_block_llm.pipelines.git_ingest.filters.encoding_detection import (
    decode,
    decode_path,
    looks_binary,
)
from the_block_llm.pipelines.git_ingest.filters.gitattributes import (
    Attributes,
    FileMarks,
    marks_of,
    read_attributes,
)
from the_block_llm.pipelines.git_ingest.filters.rules import content_verdict, path_verdict
from the_block_llm.pipelines.git_ingest.git.objects import BlobReader, BlobReaders
from the_block_llm.pipelines.git_ingest.git.sandbox import PrivateView
from the_block_llm.pipelines.git_ingest.git.tree import TreeEntry, list_tree
from the_block_llm.pipelines.git_ingest.redaction.redactor import Redactor
from the_block_llm.pipelines.git_ingest.redaction.rows import RowRedaction
from the_block_llm.pipelines.git_ingest.sharding.counts import Tally
from the_block_llm.pipelines.git_ingest.sharding.record_batches import Row, batches
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import (
    PieceCache,
    digest_of,
    finish_piece,
)
from the_block_llm.pipelines.git_ingest.sharding.shards import Share
from the_block_llm.pipelines.git_ingest.sharding.thread_pool import Job, run_jobs
from the_block_llm.progress import progress_bar
from the_block_llm.schemas import SNAPSHOT_FILES, DropReason

_MEAN_FILES_A_PIECE: Final = 64
_MAX_FILES_A_PIECE: Final = 256
_TEXT_COLUMN: Final = SNAPSHOT_FILES.get_field_index("text")
_PATH_COLUMN: Final = SNAPSHOT_FILES.get_field_index("path")
_COUNT_COLUMN: Final = SNAPSHOT_FILES.get_field_index("redactions")
_SHA_COLUMN: Final = SNAPSHOT_FILES.get_field_index("sha")


@dataclass(frozen=True)
class SnapshotOptions:
    """What decides the rows of a snapshot besides its tree."""

    repo: str
    redact: bool
    mask_addresses: bool


class SnapshotPiece(NamedTuple):
    """A run of files of a tree; which of them repeat an earlier file is known already."""

    entries: list[TreeEntry]
    repeats: list[bool]


@dataclass(frozen=True)
class Snapshot:
    """Where the finished parts of one snapshot lie, in the order of the tree."""

    sha: str
    parts: list[Path]
    tally: Tally


def read_snapshots(
    view: PrivateView,
    shas: Sequence[str],
    options: SnapshotOptions,
    cache: PieceCache,
    version: str,
    n_processes: int,
    share: Share | None = None,
) -> list[Snapshot]:
    """Make sure that the files at each of ``shas`` are in ``cache``, as finished parts.

    With a ``share`` only its pieces are read, and the others are left as they are. A piece is
    kept without the commit's sha, so files that did not change between two snapshots, or
    between two runs, are read and judged once.
    """
    kept: set[str] = set()
    with closing(BlobReaders(view)) as blobs:
        snapshots = [
            _read_snapshot(view, blobs, sha, options, cache, version, n_processes, kept, share)
            for sha in shas
        ]
    if share is None:
        cache.sweep(kept)
    return snapshots


def _read_snapshot(
    view: PrivateView,
    blobs: BlobReaders,
    sha: str,
    options: SnapshotOptions,
    cache: PieceCache,
    version: str,
    n_processes: int,
    kept: set[str],
    share: Share | None,
) -> Snapshot:
    survey = _survey(view, sha)
    pieces: list[tuple[str, int]] = []

    def jobs() -> Iterator[Job]:
        for number, piece in enumerate(_pieces(list_tree(view, sha), survey)):
            if share is not None and number % share.of != share.number:
                continue
            name = digest_of(version, options, survey.attributes, view.max_file_bytes, piece)
            pieces.append((name, len(piece.entries)))
            known = cache.notes(name)
            if known is not None and view.present(known["missing"]):
                known = None
            if known is not None and _part_path(cache, name, sha).exists():
                yield None, (known,)
            else:
                yield _make_part, (
                    view, blobs, piece, options, survey.attributes, cache, name, sha, known,
                )  # fmt: skip

    tally = Tally()
    parts = []
    with progress_bar(f"Reading files at {sha[:8]}", survey.n_files) as bar:
        is_large = survey.n_files > 4 * _MAX_FILES_A_PIECE
        results = run_jobs(jobs(), n_processes if is_large else 1)
        for index, note in enumerate(results):
            name, n_entries = pieces[index]
            tally.add(note["tally"])
            parts.append(_part_path(cache, name, sha))
            kept.update((name, _part_name(name, sha)))
            bar.advance(n_entries)
    return Snapshot(sha, parts, tally)


def _make_part(
    view: PrivateView,
    blobs: BlobReaders,
    piece: SnapshotPiece,
    options: SnapshotOptions,
    attributes: Attributes,
    cache: PieceCache,
    name: str,
    sha: str,
    known: dict[str, Any] | None,
) -> dict[str, Any]:
    """Read the piece unless it is known, and give its rows the sha of the snapshot."""
    notes = known
    if notes is None:
        with blobs.reader() as reader:
            notes = read_snapshot_piece(
                reader, view.max_file_bytes, piece, options, attributes, cache.stem(name)
            )
    with pq.ParquetFile(cache.folder / f"{name}.files.parquet") as rows:
        stamped = map(_with_sha(sha), rows.iter_batches(256))
        write_part(_part_path(cache, name, sha), SNAPSHOT_FILES, stamped)
    return notes


def _part_name(name: str, sha: str) -> str:
    return digest_of(name, sha)


def _part_path(cache: PieceCache, name: str, sha: str) -> Path:
    return cache.folder / f"{_part_name(name, sha)}.parquet"


def _with_sha(sha: str) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    def stamp(batch: pa.RecordBatch) -> pa.RecordBatch:
        column = pa.array([sha] * batch.num_rows, pa.string())
        return batch.set_column(_SHA_COLUMN, SNAPSHOT_FILES.field("sha"), column)

    return stamp


class _Survey(NamedTuple):
    """What has to be known of a whole tree before its first file is judged."""

    n_files: int
    repeated: frozenset[int]
    """Numbers of the blobs that stand at more than one path."""
    attributes: Attributes


def _survey(view: PrivateView, sha: str) -> _Survey:
    numbers = array("Q")  # 8 bytes a file: a tree of a million files has to fit easily

    def counted() -> Iterator[TreeEntry]:
        for entry in list_tree(view, sha):
            numbers.append(_number(entry.blob))
            yield entry

    attributes = read_attributes(view, counted())
    values, counts = np.unique(np.frombuffer(numbers, dtype=np.uint64), return_counts=True)
    return _Survey(len(numbers), frozenset(values[counts > 1].tolist()), attributes)


def _number(blob: str) -> int:
    return int(blob[:16], 16)


def _pieces(entries: Iterator[TreeEntry], survey: _Survey) -> Iterator[SnapshotPiece]:
    seen: set[int] = set()
    marks = marks_of(survey.attributes)
    piece = SnapshotPiece([], [])
    for entry in entries:
        number = _number(entry.blob)
        piece.entries.append(entry)
        piece.repeats.append(number in seen)
        if number in survey.repeated and number not in seen:
            path = decode_path(entry.path)
            if path_verdict(path, marks(entry.path)) is None:
                seen.add(number)
        # Cut where the path says so: a new file changes one piece, not all that follow.
        ends_here = zlib.crc32(entry.path) % _MEAN_FILES_A_PIECE == 0
        if ends_here or len(piece.entries) == _MAX_FILES_A_PIECE:
            yield piece
            piece = SnapshotPiece([], [])
    if piece.entries:
        yield piece


def read_snapshot_piece(
    blobs: BlobReader,
    max_file_bytes: int,
    piece: SnapshotPiece,
    options: SnapshotOptions,
    attributes: Attributes,
    stem: Path,
) -> dict[str, Any]:
    """Read the files of ``piece`` and write ``<stem>.files.parquet``; returns the notes."""
    tally = Tally()
    missing: list[str] = []
    path = stem.with_name(f"{stem.name}.files.parquet")
    marks = [marks_of(attributes)(entry.path) for entry in piece.entries]
    rows = _rows(blobs, max_file_bytes, piece, marks, options, tally, missing)
    redaction = RowRedaction(Redactor(options.redact, options.mask_addresses), tally)

    def finish(rows: list[Row]) -> list[Row]:
        redaction.short(rows, sha=None, columns=(_PATH_COLUMN,))
        return redaction.text(
            rows, sha=_SHA_COLUMN, path=_PATH_COLUMN, text=_TEXT_COLUMN, count=_COUNT_COLUMN
        )

    write_part(path, SNAPSHOT_FILES, batches(SNAPSHOT_FILES, rows, _TEXT_COLUMN, finish))
    redaction.tallied_paths()
    return finish_piece(stem, [path], {"tally": tally.as_json(), "missing": sorted(missing)})


def _rows(
    blobs: BlobReader,
    max_file_bytes: int,
    piece: SnapshotPiece,
    marks: Sequence[FileMarks],
    options: SnapshotOptions,
    tally: Tally,
    missing: list[str],
) -> Iterator[tuple[Any, ...]]:
    sizes = blobs.sizes([entry.blob for entry in piece.entries])
    early: list[DropReason | None] = []
    for entry, size, mark, is_repeat in zip(
        piece.entries, sizes, marks, piece.repeats, strict=True
    ):
        early.append(_early_verdict(entry, size, mark, max_file_bytes, is_repeat=is_repeat))
        if early[-1] == "missing_object":
            missing.append(entry.blob)
            tally.note_missing([entry.blob], decode_path(entry.path))
    wanted = [e.blob for e, reason in zip(piece.entries, early, strict=True) if reason is None]
    contents = blobs.contents(wanted)
    for entry, size, mark, reason_before in zip(piece.entries, sizes, marks, early, strict=True):
        path = decode_path(entry.path)
        language = mark.language or language_of(path[path.rfind("/") + 1 :])
        text, encoding, reason = None, None, reason_before
        if reason is None:
            text, encoding, reason = _judged(path, next(contents) or b"", mark)
        n_bytes = size or 0
        if reason is None:
            tally.keep(n_bytes, mark.counted_as(language), encoding, path)
        else:
            tally.drop(reason, n_bytes)
        yield (
            options.repo, "", path, language, n_bytes, text, reason is None, reason, 0,
        )  # fmt: skip


def _early_verdict(
    entry: TreeEntry, size: int | None, marks: FileMarks, max_file_bytes: int, *, is_repeat: bool
) -> DropReason | None:
    """Judge what can be judged without the content."""
    if entry.is_submodule:
        return "submodule"
    if entry.is_symlink:
        return "symlink"
    if size is None:
        return "missing_object"
    if size == 0:
        return "empty"
    reason = path_verdict(decode_path(entry.path), marks)
    if reason is not None:
        return reason
    if size > max_file_bytes:
        return "too_large"
    return "duplicate" if is_repeat else None


def _judged(
    path: str, content: bytes, marks: FileMarks
) -> tuple[str | bytes | None, str | None, DropReason | None]:
    if looks_binary(content):
        return None, None, "binary"
    decoded = None if content.isascii() else decode(content)
    if decoded is None and not content.isascii():
        return None, None, "undecodable"
    text = content if decoded is None else decoded.text.encode("utf-8", "surrogatepass")
    reason = content_verdict(path, text, marks)
    if reason is not None:
        return None, None, reason
    return text, "utf-8" if decoded is None else decoded.encoding, None
