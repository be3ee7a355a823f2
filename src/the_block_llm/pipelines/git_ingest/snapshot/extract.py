"""Extracts the files of one commit's tree."""

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
    needs_decoding,
)
from the_block_llm.pipelines.git_ingest.filters.gitattributes import (
    FileAttributes,
    GitAttributes,
    attribute_matcher,
    read_gitattributes,
)
from the_block_llm.pipelines.git_ingest.filters.payloads import PayloadCounts
from the_block_llm.pipelines.git_ingest.filters.reduction import reduce_text
from the_block_llm.pipelines.git_ingest.filters.rules import (
    confirms,
    content_drop_reason,
    path_hint,
)
from the_block_llm.pipelines.git_ingest.filters.stand_ins import stand_in_reason
from the_block_llm.pipelines.git_ingest.git.objects import BlobReader, BlobReaderPool
from the_block_llm.pipelines.git_ingest.git.program import tools_digest
from the_block_llm.pipelines.git_ingest.git.sandbox import RepositorySandbox
from the_block_llm.pipelines.git_ingest.git.tree import TreeEntry, list_tree
from the_block_llm.pipelines.git_ingest.redaction.allow_list import AllowList
from the_block_llm.pipelines.git_ingest.redaction.redactor import Redactor
from the_block_llm.pipelines.git_ingest.redaction.rows import RowRedactor
from the_block_llm.pipelines.git_ingest.sharding.counts import RowCounts
from the_block_llm.pipelines.git_ingest.sharding.record_batches import Row, record_batches
from the_block_llm.pipelines.git_ingest.sharding.shard_assignment import ShardAssignment
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import (
    ShardCache,
    digest_of,
    finish_shard,
)
from the_block_llm.pipelines.git_ingest.sharding.thread_pool import Job, run_jobs
from the_block_llm.progress import progress_bar
from the_block_llm.schemas import SNAPSHOT_FILES, DropReason

_MEAN_SHARD_FILES: Final = 64
_MAX_SHARD_FILES: Final = 256
_TEXT_COLUMN: Final = SNAPSHOT_FILES.get_field_index("text")
_PATH_COLUMN: Final = SNAPSHOT_FILES.get_field_index("path")
_REDACTIONS_COLUMN: Final = SNAPSHOT_FILES.get_field_index("redactions")
_SHA_COLUMN: Final = SNAPSHOT_FILES.get_field_index("sha")


@dataclass(frozen=True)
class SnapshotOptions:
    """Options that decide the rows of a snapshot; part of the name of every cached shard."""

    repo: str
    redact: bool
    mask_emails: bool
    allowed: AllowList


class SnapshotShard(NamedTuple):
    """Consecutive files of a tree."""

    entries: list[TreeEntry]
    is_duplicate: list[bool]
    """For each entry whether an earlier file of the tree has the same blob."""


@dataclass(frozen=True)
class Snapshot:
    """Files of the finished parts of one snapshot, in the order of the tree."""

    sha: str
    parts: list[Path]
    counts: RowCounts


def extract_snapshots(
    sandbox: RepositorySandbox,
    shas: Sequence[str],
    options: SnapshotOptions,
    cache: ShardCache,
    n_threads: int,
    assignment: ShardAssignment | None = None,
) -> list[Snapshot]:
    """Read the files at each of ``shas`` that are not in ``cache``.

    A shard is cached without the commit's sha, so files that are the same in two snapshots, or in
    two runs, are read and filtered once.

    Args:
        sandbox: The repository.
        shas: Commits whose trees are read.
        options: Options that decide the rows.
        cache: Cache of finished shards; shards of other commits or options are pruned.
        n_threads: Number of shards read in parallel, each with its own git process.
        assignment: Read only these shards, and do not prune.
    """
    used: set[str] = set()
    with closing(BlobReaderPool(sandbox)) as blobs:
        snapshots = [
            _extract_snapshot(sandbox, blobs, sha, options, cache, n_threads, used, assignment)
            for sha in shas
        ]
    if assignment is None:
        cache.prune(used)
    return snapshots


def _extract_snapshot(
    sandbox: RepositorySandbox,
    blobs: BlobReaderPool,
    sha: str,
    options: SnapshotOptions,
    cache: ShardCache,
    n_threads: int,
    used: set[str],
    assignment: ShardAssignment | None,
) -> Snapshot:
    statistics, tools = _scan_tree(sandbox, sha), tools_digest()
    gitattributes = statistics.gitattributes
    shards: list[tuple[str, int]] = []

    def jobs() -> Iterator[Job]:
        for index, shard in enumerate(_split_tree(list_tree(sandbox, sha), statistics)):
            if assignment is not None and index % assignment.n_parts != assignment.part:
                continue
            name = digest_of(tools, sandbox.reading, options, gitattributes, shard)
            shards.append((name, len(shard.entries)))
            cached = cache.manifest(name)
            if cached is not None and sandbox.object_sizes(cached["missing"]):
                cached = None
            if cached is not None and cache.manifest(_part_name(name, sha)) is not None:
                yield None, (cached,)
            else:
                yield _write_part, (
                    sandbox, blobs, shard, options, gitattributes, cache, name, sha, cached,
                )  # fmt: skip

    counts = RowCounts()
    parts = []
    with progress_bar(f"Reading files at {sha[:8]}", statistics.n_files) as bar:
        is_large = statistics.n_files > 4 * _MAX_SHARD_FILES
        manifests = run_jobs(jobs(), n_threads if is_large else 1)
        for index, manifest in enumerate(manifests):
            name, n_entries = shards[index]
            counts.merge(manifest["tally"])
            parts.append(_part_path(cache, name, sha))
            used.update((name, _part_name(name, sha)))
            bar.advance(n_entries)
    return Snapshot(sha, parts, counts)


def _write_part(
    sandbox: RepositorySandbox,
    blobs: BlobReaderPool,
    shard: SnapshotShard,
    options: SnapshotOptions,
    gitattributes: GitAttributes,
    cache: ShardCache,
    name: str,
    sha: str,
    cached: dict[str, Any] | None,
) -> dict[str, Any]:
    """Extract the shard unless it is cached, and write its rows with the snapshot's sha."""
    manifest = cached
    if manifest is None:
        with blobs.reader() as reader:
            manifest = extract_snapshot_shard(
                reader, sandbox.max_file_bytes, shard, options, gitattributes, cache.stem(name)
            )
    with pq.ParquetFile(cache.folder / f"{name}.files.parquet") as rows:
        batches = map(_set_sha(sha), rows.iter_batches(256))
        part = _part_path(cache, name, sha)
        write_part(part, SNAPSHOT_FILES, batches)
    finish_shard(cache.stem(_part_name(name, sha)), [part], {})
    return manifest


def _part_name(name: str, sha: str) -> str:
    return digest_of(name, sha)


def _part_path(cache: ShardCache, name: str, sha: str) -> Path:
    return cache.folder / f"{_part_name(name, sha)}.parquet"


def _set_sha(sha: str) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    def set_sha(batch: pa.RecordBatch) -> pa.RecordBatch:
        column = pa.array([sha] * batch.num_rows, pa.string())
        return batch.set_column(_SHA_COLUMN, SNAPSHOT_FILES.field("sha"), column)

    return set_sha


class _TreeStatistics(NamedTuple):
    """Collected from the whole tree before its first file is filtered."""

    n_files: int
    repeated: frozenset[int]
    """Keys of the blobs at more than one path."""
    gitattributes: GitAttributes


def _scan_tree(sandbox: RepositorySandbox, sha: str) -> _TreeStatistics:
    keys = array("Q")  # 8 bytes per file: a tree of a million files must fit easily

    def entries() -> Iterator[TreeEntry]:
        for entry in list_tree(sandbox, sha):
            keys.append(_blob_key(entry.blob))
            yield entry

    gitattributes = read_gitattributes(sandbox, entries())
    values, n_paths = np.unique(np.frombuffer(keys, dtype=np.uint64), return_counts=True)
    return _TreeStatistics(len(keys), frozenset(values[n_paths > 1].tolist()), gitattributes)


def _blob_key(blob: str) -> int:
    return int(blob[:16], 16)


def _split_tree(
    entries: Iterator[TreeEntry], statistics: _TreeStatistics
) -> Iterator[SnapshotShard]:
    seen: set[int] = set()
    attributes_of = attribute_matcher(statistics.gitattributes)
    shard = SnapshotShard([], [])
    for entry in entries:
        key = _blob_key(entry.blob)
        shard.entries.append(entry)
        shard.is_duplicate.append(key in seen)
        if key in statistics.repeated and key not in seen:
            path = decode_path(entry.path)
            if path_hint(path, attributes_of(entry.path)).reason is None:
                seen.add(key)
        # The path decides where a shard ends: a new file changes one shard, not all later ones.
        is_boundary = zlib.crc32(entry.path) % _MEAN_SHARD_FILES == 0
        if is_boundary or len(shard.entries) == _MAX_SHARD_FILES:
            yield shard
            shard = SnapshotShard([], [])
    if shard.entries:
        yield shard


def extract_snapshot_shard(
    blobs: BlobReader,
    max_file_bytes: int,
    shard: SnapshotShard,
    options: SnapshotOptions,
    gitattributes: GitAttributes,
    stem: Path,
) -> dict[str, Any]:
    """Read the files of ``shard``, write ``<stem>.files.parquet`` and return its manifest."""
    counts = RowCounts()
    missing: list[str] = []
    path = stem.with_name(f"{stem.name}.files.parquet")
    attributes = [attribute_matcher(gitattributes)(entry.path) for entry in shard.entries]
    rows = _rows(blobs, max_file_bytes, shard, attributes, options, counts, missing)
    redactor = RowRedactor(Redactor(options.redact, options.mask_emails, options.allowed), counts)

    def redact(rows: list[Row]) -> list[Row]:
        redactor.redact_paths(rows, sha_column=None, columns=(_PATH_COLUMN,))
        return redactor.redact_text(
            rows,
            sha_column=_SHA_COLUMN,
            path_column=_PATH_COLUMN,
            text_column=_TEXT_COLUMN,
            count_column=_REDACTIONS_COLUMN,
        )

    write_part(path, SNAPSHOT_FILES, record_batches(SNAPSHOT_FILES, rows, _TEXT_COLUMN, redact))
    redactor.redact_counted_paths()
    return finish_shard(stem, [path], {"tally": counts.as_json(), "missing": sorted(missing)})


def _rows(
    blobs: BlobReader,
    max_file_bytes: int,
    shard: SnapshotShard,
    attributes: Sequence[FileAttributes],
    options: SnapshotOptions,
    counts: RowCounts,
    missing: list[str],
) -> Iterator[Row]:
    sizes = blobs.sizes([entry.blob for entry in shard.entries])
    reasons: list[DropReason | None] = []
    for entry, size, file_attributes, is_duplicate in zip(
        shard.entries, sizes, attributes, shard.is_duplicate, strict=True
    ):
        reasons.append(
            _drop_reason_without_content(
                entry, size, file_attributes, max_file_bytes, is_duplicate=is_duplicate
            )
        )
        if reasons[-1] == "missing_object":
            missing.append(entry.blob)
            counts.add_missing([entry.blob], decode_path(entry.path))
    needed = [e.blob for e, reason in zip(shard.entries, reasons, strict=True) if reason is None]
    contents = blobs.contents(needed)
    for entry, size, file_attributes, early_reason in zip(
        shard.entries, sizes, attributes, reasons, strict=True
    ):
        path = decode_path(entry.path)
        language = file_attributes.language or language_of(path[path.rfind("/") + 1 :])
        n_bytes = size or 0
        content = _Content(None, None, early_reason)
        if early_reason is None:
            content = _examine_content(path, next(contents) or b"", file_attributes)
        if content.reason is None:
            removed = content.removed
            counts.add_payloads(removed.removed, removed.removed_bytes)
            counts.add_kept(
                n_bytes - removed.removed_bytes.total(),
                file_attributes.counted_language(language),
                content.encoding,
                path,
            )
        else:
            counts.add_dropped(content.reason, n_bytes)
        yield (
            options.repo, "", path, language, n_bytes, content.text, content.reason is None,
            content.reason, 0,
        )  # fmt: skip


def _drop_reason_without_content(
    entry: TreeEntry,
    size: int | None,
    attributes: FileAttributes,
    max_file_bytes: int,
    *,
    is_duplicate: bool,
) -> DropReason | None:
    if entry.is_submodule:
        return "submodule"
    if entry.is_symlink:
        return "symlink"
    if size is None:
        return "missing_object"
    if size == 0:
        return "empty"
    hint = path_hint(decode_path(entry.path), attributes)
    is_too_large = size > max_file_bytes
    if hint.reason is not None and (hint.is_conclusive or is_too_large):
        return hint.reason
    if is_too_large:
        return "too_large"
    return "duplicate" if is_duplicate else None


class _Content(NamedTuple):
    """Text and encoding of a file, or the reason to drop it."""

    text: str | bytes | None
    encoding: str | None
    reason: DropReason | None
    removed: PayloadCounts = PayloadCounts()
    """What was removed from the text."""


def _examine_content(path: str, content: bytes, attributes: FileAttributes) -> _Content:
    hint = path_hint(path, attributes).reason
    if hint is not None and confirms(path, hint, content):
        return _Content(None, None, hint)
    if looks_binary(content):
        return _Content(None, None, stand_in_reason(content) or "binary")
    text, encoding = content, "utf-8"
    if needs_decoding(content):
        decoded = decode(content)
        if decoded is None:
            return _Content(None, None, "undecodable")
        text, encoding = decoded.text.encode("utf-8"), decoded.encoding
    stand_in = stand_in_reason(text)
    if stand_in is not None:
        return _Content(None, None, stand_in)
    reduced = reduce_text(path, text)
    if reduced is None:
        reason = content_drop_reason(path, text, attributes)
        return _Content(None if reason else text, encoding, reason)
    reason = "binary" if reduced.is_empty else content_drop_reason(path, reduced.text, attributes)
    return _Content(None if reason else reduced.text, encoding, reason, reduced.removed)
