"""One piece of the history: its commits and changes, judged and written as Parquet parts."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from the_block_llm.datasets.parts import write_part
from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.attributes import Attributes, FileMarks, marks_of
from the_block_llm.pipelines.git_ingest.authors import AuthorNaming, is_bot
from the_block_llm.pipelines.git_ingest.blob_reader import BlobReader
from the_block_llm.pipelines.git_ingest.commit_order import LATEST_TIME, HistoryPiece
from the_block_llm.pipelines.git_ingest.damaged import (
    commits_with_missing_objects,
    read_damaged_commit,
)
from the_block_llm.pipelines.git_ingest.decoding import decode, decode_message, decode_path
from the_block_llm.pipelines.git_ingest.languages import language_of
from the_block_llm.pipelines.git_ingest.patch_stream import (
    CommitHeader,
    FilePatch,
    PatchStream,
)
from the_block_llm.pipelines.git_ingest.piece_cache import finish_piece
from the_block_llm.pipelines.git_ingest.private_view import GitStoppedError, PrivateView
from the_block_llm.pipelines.git_ingest.redaction import Redactor
from the_block_llm.pipelines.git_ingest.row_redaction import RowRedaction, without_names
from the_block_llm.pipelines.git_ingest.rows import Row, batches
from the_block_llm.pipelines.git_ingest.selection import patch_verdict, path_verdict
from the_block_llm.pipelines.git_ingest.subjects import (
    commit_kind,
    normal_form,
    reverted_sha,
    reverted_subject,
    says_something,
)
from the_block_llm.pipelines.git_ingest.tally import Tally
from the_block_llm.schemas import COMMITS, FILE_CHANGES, DropReason

_SYMLINK: Final = b"120000"
_SUBMODULE: Final = b"160000"
_PATCH_COLUMN: Final = FILE_CHANGES.get_field_index("patch")
_PATH_COLUMN: Final = FILE_CHANGES.get_field_index("path")
_OLD_PATH_COLUMN: Final = FILE_CHANGES.get_field_index("old_path")
_COUNT_COLUMN: Final = FILE_CHANGES.get_field_index("redactions")
_SHA_COLUMN: Final = COMMITS.get_field_index("sha")  # the same in both tables
_SUBJECT_COLUMN: Final = COMMITS.get_field_index("subject")
_BODY_COLUMN: Final = COMMITS.get_field_index("body")
_CUT: Final = "\n[...]"

PIECE_COMMITS: Final = pa.schema(
    [
        *COMMITS,
        # What can only be settled when all pieces are known, see commit_rows.
        pa.field("subject_form", pa.int64()),
        pa.field("subject_id", pa.int64()),
        pa.field("reverted_subject", pa.int64()),
        pa.field("change_id", pa.int64()),
        pa.field("inverse_id", pa.int64()),
    ]
)


@dataclass(frozen=True)
class HistoryOptions:
    """What decides the rows of a piece besides its commits."""

    repo: str
    naming: AuthorNaming
    redact: bool
    max_patch_bytes: int
    max_message_bytes: int
    attributes: Attributes


def read_history_piece(
    view: PrivateView, piece: HistoryPiece, options: HistoryOptions, stem: Path
) -> dict[str, Any]:
    """Read the commits of ``piece`` and write them beside ``stem``; returns the notes.

    Writes ``<stem>.changes.parquet`` in the schema FILE_CHANGES, ``<stem>.commits.arrow``
    in PIECE_COMMITS, both in the order of the piece, then the notes.
    """
    damaged: set[str] = set()
    while True:
        reading = _PieceReading(view, options, damaged)
        try:
            return reading.write(piece, stem)
        except GitStoppedError:
            # Rare, so the piece is begun again, now going round what cannot be read.
            damaged = damaged | reading.why_stopped(piece)
            close_readers()
        except BaseException:
            close_readers()  # they may stand in the middle of an answer
            raise


def close_readers() -> None:
    """End the git processes that this process keeps from one piece to the next."""
    for stream, blobs in _READERS.values():
        stream.close()
        blobs.close()
    _READERS.clear()


_READERS: Final[dict[Path, tuple[PatchStream, BlobReader]]] = {}


def _readers(view: PrivateView) -> tuple[PatchStream, BlobReader]:
    # Starting git and opening its packs costs as much as reading some dozen commits.
    if view.git_dir not in _READERS:
        close_readers()
        _READERS[view.git_dir] = (PatchStream(view), BlobReader(view))
    return _READERS[view.git_dir]


class _PieceReading:
    """State of one pass over a piece."""

    def __init__(self, view: PrivateView, options: HistoryOptions, damaged: set[str]) -> None:
        self._view = view
        self._options = options
        self._damaged = damaged
        self._stream, self._blobs = _readers(view)
        self._marks = marks_of(options.attributes)
        self._tally = Tally()
        self._redaction = RowRedaction(
            Redactor(secrets=options.redact, addresses=options.naming.key is not None), self._tally
        )
        self._missing: set[str] = set()
        self._commit_rows: list[tuple[Any, ...]] = []

    def write(self, piece: HistoryPiece, stem: Path) -> dict[str, Any]:
        changes = stem.with_name(f"{stem.name}.changes.parquet")
        write_part(
            changes,
            FILE_CHANGES,
            batches(FILE_CHANGES, self._rows(piece), _PATCH_COLUMN, self._finish_changes),
        )
        commits = stem.with_name(f"{stem.name}.commits.arrow")
        # Arrow's own format: these are read back once or twice and never by anybody else.
        with pa.OSFile(str(commits), "wb") as file, pa.ipc.new_file(file, PIECE_COMMITS) as writer:
            for batch in batches(
                PIECE_COMMITS, self._commit_rows, _BODY_COLUMN, self._finish_commits
            ):
                writer.write_batch(batch)
        self._redaction.tallied_paths()
        return finish_piece(
            stem,
            [changes, commits],
            {"tally": self._tally.as_json(), "missing": sorted(self._missing)},
        )

    def _finish_changes(self, rows: list[Row]) -> list[Row]:
        # Paths first: findings in a text name the path.
        self._redaction.short(rows, sha=_SHA_COLUMN, columns=(_PATH_COLUMN, _OLD_PATH_COLUMN))
        return self._redaction.text(
            rows, sha=_SHA_COLUMN, path=_PATH_COLUMN, text=_PATCH_COLUMN, count=_COUNT_COLUMN
        )

    def _finish_commits(self, rows: list[Row]) -> list[Row]:
        return self._redaction.short(rows, sha=_SHA_COLUMN, columns=(_SUBJECT_COLUMN, _BODY_COLUMN))

    def why_stopped(self, piece: HistoryPiece) -> set[str]:
        """Return commits to go round; at least one that was not gone round before."""
        found = commits_with_missing_objects(self._view, self._blobs, piece.shas) - self._damaged
        if found:
            return found
        # Nothing is missing, so git gave up on the commit at hand: damaged or too large.
        if self._stream.reading is None or self._stream.reading in self._damaged:
            raise RepositoryError(
                f"git cannot read the commit {self._stream.reading or piece.shas[0]} or its "
                "trees. Repair the repository (`git fsck` names the damage) or clone it again."
            )
        return {self._stream.reading}

    def _rows(self, piece: HistoryPiece) -> Iterator[tuple[Any, ...]]:
        for header, patches in self._commits(piece):
            n_changes = insertions = deletions = 0
            change_id, inverse_id = hashlib.blake2b(digest_size=8), hashlib.blake2b(digest_size=8)
            for patch in patches:
                n_changes += 1
                insertions += patch.additions
                deletions += patch.deletions
                _note_change(patch, change_id, inverse_id)
                yield self._change_row(header.sha, patch)
            identity = (_signed(change_id), _signed(inverse_id)) if n_changes else (None, None)
            self._commit_rows.append(
                (*_commit_row(header, self._options, n_changes, insertions, deletions), *identity)
            )

    def _commits(self, piece: HistoryPiece) -> Iterator[tuple[CommitHeader, Iterator[FilePatch]]]:
        for is_damaged, group in itertools.groupby(piece.shas, self._damaged.__contains__):
            if not is_damaged:
                yield from self._stream.commits(list(group))
                continue
            for sha in group:
                header, patches = read_damaged_commit(self._view, self._blobs, sha)
                if patches is None:
                    self._tally.unreadable_commits.append(sha)
                yield header, patches or iter(())

    def _change_row(self, sha: str, patch: FilePatch) -> tuple[Any, ...]:
        change = patch.change
        path = decode_path(change.path)
        marks = self._marks(change.path)
        language = marks.language or language_of(path[path.rfind("/") + 1 :])
        text, encoding, reason, n_bytes = self._judged(path, patch, marks)
        if reason is None:
            self._tally.keep(n_bytes, marks.counted_as(language), encoding, path)
        else:
            self._tally.drop(reason, n_bytes)
        has_lines = not (patch.is_binary or patch.is_missing)
        return (
            self._options.repo,
            sha,
            path,
            None if change.old_path is None else decode_path(change.old_path),
            change.status,
            change.similarity,
            language,
            patch.additions if has_lines else None,
            patch.deletions if has_lines else None,
            text if reason is None else None,
            encoding,
            reason is None,
            reason,
            0,
        )

    def _judged(
        self, path: str, patch: FilePatch, marks: FileMarks
    ) -> tuple[bytes | str | None, str | None, DropReason | None, int]:
        """Return text, encoding, reason to drop it, and size in bytes."""
        change, hunks = patch.change, patch.hunks
        n_bytes = len(hunks)
        if patch.is_missing:
            sides = [b for b in (change.old_blob, change.new_blob) if b.strip("0")]
            sizes = zip(sides, self._blobs.sizes(sides), strict=True)
            missing = [blob for blob, size in sizes if size is None]
            self._missing.update(missing)
            self._tally.note_missing(missing, path)
            return None, None, "missing_object", 0
        modes = (change.old_mode, change.new_mode)
        if _SUBMODULE in modes or _SYMLINK in modes:
            return None, None, "submodule" if _SUBMODULE in modes else "symlink", n_bytes
        reason = path_verdict(path, marks)
        if patch.is_binary:
            sides = [b for b in (change.old_blob, change.new_blob) if b.strip("0")]
            size = max((size or 0 for size in self._blobs.sizes(sides)), default=0)
            is_large = size > self._view.max_file_bytes
            return None, None, reason or ("too_large" if is_large else "binary"), size
        if reason is None and n_bytes > self._options.max_patch_bytes:
            reason = "too_large"
        reason = reason or patch_verdict(path, hunks, marks)
        if reason is not None:
            return None, None, reason, n_bytes
        if hunks.isascii():
            return hunks, "utf-8", None, n_bytes
        decoded = decode(hunks)
        if decoded is None:
            return None, None, "undecodable", n_bytes
        return decoded.text, decoded.encoding, None, n_bytes


def _commit_row(
    header: CommitHeader, options: HistoryOptions, n_changes: int, insertions: int, deletions: int
) -> tuple[Any, ...]:
    name, email = decode_message(header.author_name), decode_message(header.author_email)
    subject = decode_message(header.subject).strip()
    body = _cut(header.body, options.max_message_bytes).strip("\n")
    body = without_names(body, options.naming)
    is_merge = len(header.parents) > 1
    seconds, _, offset = header.author_date.decode("ascii", "replace").partition(" ")
    undone = reverted_subject(subject)
    return (
        options.repo,
        header.sha,
        header.parents,
        options.naming.author_id(name, email),
        _clamped(seconds),
        _clamped(header.committed_at),
        _minutes(offset),
        subject,
        body,
        commit_kind(subject, is_merge=is_merge),
        is_merge,
        reverted_sha(body),
        is_bot(name, email),
        says_something(subject),
        n_changes,
        insertions,
        deletions,
        text_id(normal_form(subject)),
        text_id(subject),
        None if undone is None else text_id(undone),
    )


def text_id(text: str) -> int:
    """Return a number of 64 bits that stands for ``text``, the same in every process."""
    return _signed(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8))


def _signed(digest: "hashlib.blake2b") -> int:
    return int.from_bytes(digest.digest(), "big", signed=True)


def _note_change(
    patch: FilePatch, change_id: "hashlib.blake2b", inverse_id: "hashlib.blake2b"
) -> None:
    # A commit undoes another exactly where it takes every file back from blob B to blob A.
    change = patch.change
    old_path = change.old_path or change.path
    old, new = change.old_blob.encode(), change.new_blob.encode()
    change_id.update(b"%s\0%s\0%s\0%s\0" % (old_path, old, change.path, new))
    inverse_id.update(b"%s\0%s\0%s\0%s\0" % (change.path, new, old_path, old))


def _clamped(seconds: bytes | str) -> int:
    # Damaged or playful dates exist; a timestamp column has to hold them all.
    try:
        return min(max(int(seconds), 0), LATEST_TIME)
    except ValueError:
        return 0


def _minutes(offset: str) -> int:
    """Minutes east of UTC of an offset such as ``-0730``."""
    try:
        hours, minutes = divmod(abs(int(offset)), 100)
    except ValueError:
        return 0
    east = min(hours * 60 + minutes, 24 * 60)
    return -east if offset.startswith("-") else east


def _cut(message: bytes, max_bytes: int) -> str:
    if len(message) <= max_bytes:
        return decode_message(message)
    return decode_message(message[:max_bytes]) + _CUT
