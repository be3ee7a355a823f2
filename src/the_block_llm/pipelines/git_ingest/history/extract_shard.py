"""Extracts one shard of the history: writes its commits and changes as Parquet and Arrow files."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from the_block_llm.datasets.parquet_table import write_part
from the_block_llm.files.durable_files import replacing_file
from the_block_llm.pipelines.git_ingest.git.commit_object import restore_original_text
from the_block_llm.pipelines.git_ingest.git.diff_parser import CommitHeader, FilePatch
from the_block_llm.pipelines.git_ingest.git.diff_stream import DiffStream
from the_block_llm.pipelines.git_ingest.git.objects import BlobReader
from the_block_llm.pipelines.git_ingest.git.sandbox import GitProcessError, RepositorySandbox
from the_block_llm.pipelines.git_ingest.history.change_rows import ChangeRowBuilder
from the_block_llm.pipelines.git_ingest.history.commit_rows import (
    SHARD_COMMITS,
    change_checksums,
    change_ids,
    commit_row,
    parse_time_s,
)
from the_block_llm.pipelines.git_ingest.history.damaged_commits import (
    has_missing_objects,
    read_damaged_commit,
)
from the_block_llm.pipelines.git_ingest.history.options import HistoryOptions
from the_block_llm.pipelines.git_ingest.redaction.redactor import Redactor
from the_block_llm.pipelines.git_ingest.redaction.rows import RowRedactor
from the_block_llm.pipelines.git_ingest.sharding.commit_order import HistoryShard
from the_block_llm.pipelines.git_ingest.sharding.counts import RowCounts
from the_block_llm.pipelines.git_ingest.sharding.record_batches import Row, record_batches
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import finish_shard
from the_block_llm.schemas import COMMITS, FILE_CHANGES

_SHA_COLUMN: Final = COMMITS.get_field_index("sha")
_SUBJECT_COLUMN: Final = COMMITS.get_field_index("subject")
_BODY_COLUMN: Final = COMMITS.get_field_index("body")
_BATCH_PATCHES: Final = 256
_BATCH_BYTES: Final = 1 << 18
_NO_CHANGE_IDS: Final = (None, None)
_MIN_CORRECTION_S: Final = 86_400  # smaller ones are not worth a word in the report


class GitReaders:
    """The git processes that read one shard after another.

    Starting git and opening its packs costs as much as reading some dozen commits.
    """

    def __init__(self, sandbox: RepositorySandbox) -> None:
        self.sandbox = sandbox
        self.blobs = BlobReader(sandbox)
        self._stream: DiffStream | None = None

    def stream_for(self, shas: Sequence[str]) -> DiffStream:
        """Return a stream that can read ``shas`` next."""
        if self._stream is not None and not self._stream.can_serve(shas):
            self.close_stream()
        if self._stream is None:
            self._stream = DiffStream(self.sandbox)
        return self._stream

    def close_stream(self) -> None:
        """Close the stream; the next :meth:`stream_for` starts another."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        self.close_stream()
        self.blobs.close()


def extract_history_shard(
    readers: GitReaders,
    shard: HistoryShard,
    options: HistoryOptions,
    stem: Path,
    prefetch: Sequence[str] = (),
) -> dict[str, Any]:
    """Read the commits of ``shard``, write its files and return its manifest.

    Writes ``<stem>.changes.parquet`` in the schema FILE_CHANGES and ``<stem>.commits.arrow``
    in SHARD_COMMITS, both in the order of the shard, then the manifest.

    Args:
        readers: git processes to use.
        shard: Commits to read.
        options: Options that decide the rows.
        stem: Path of the shard's files without suffix.
        prefetch: Commits that these readers probably read next.
    """
    damaged: set[str] = set()
    while True:
        try:
            return _ShardWriter(readers, options, damaged).write(shard, stem, prefetch)
        except _DamagedCommitError as error:
            damaged.add(error.sha)


class _DamagedCommitError(Exception):
    """A commit proved damaged after some of its rows had been written; start the shard again."""

    def __init__(self, sha: str) -> None:
        super().__init__(sha)
        self.sha = sha


class _ShardWriter:
    """One pass over a shard."""

    def __init__(self, readers: GitReaders, options: HistoryOptions, damaged: set[str]) -> None:
        self._readers = readers
        self._options = options
        self._damaged = damaged
        self._counts = RowCounts()
        emails = options.pseudonymizer.key is not None
        redactor = Redactor(options.redact, emails, options.allowed)
        self._redactor = RowRedactor(redactor, self._counts)
        self._commit_rows: list[Row] = []
        self._times: array[int] = array("q")
        self._changes = ChangeRowBuilder(
            readers.blobs, readers.sandbox.max_file_bytes, options, self._counts, self._redactor
        )

    def write(self, shard: HistoryShard, stem: Path, prefetch: Sequence[str]) -> dict[str, Any]:
        self._times = shard.order.times[shard.begin : shard.end]
        changes = stem.with_name(f"{stem.name}.changes.parquet")
        write_part(changes, FILE_CHANGES, self._change_batches(shard.shas, prefetch))
        commits = stem.with_name(f"{stem.name}.commits.arrow")
        # Arrow's IPC format: only revert_detection reads these files, once or twice.
        with (
            replacing_file(commits, durable=False) as temporary,
            pa.OSFile(str(temporary), "wb") as file,
            pa.ipc.new_file(file, SHARD_COMMITS) as writer,
        ):
            for batch in record_batches(
                SHARD_COMMITS, self._commit_rows, _BODY_COLUMN, self._redact_commits
            ):
                writer.write_batch(batch)
        self._redactor.redact_counted_paths()
        return finish_shard(
            stem,
            [changes, commits],
            {"tally": self._counts.as_json(), "missing": sorted(self._changes.missing)},
        )

    def _redact_commits(self, rows: list[Row]) -> list[Row]:
        return self._redactor.redact_messages(
            rows, sha_column=_SHA_COLUMN, columns=(_SUBJECT_COLUMN, _BODY_COLUMN)
        )

    def _change_batches(
        self, shas: Sequence[str], prefetch: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        index, read_alone = 0, False
        while index < len(shas):
            if shas[index] in self._damaged:
                yield from self._add_damaged_commit(shas[index])
                index, read_alone = index + 1, False
                continue
            end = index + 1 if read_alone else self._next_damaged(shas, index)
            requested = shas[index:end]
            next_shas = prefetch if index + len(requested) == len(shas) else ()
            position = self._changes.position
            try:
                stream = self._readers.stream_for(requested)
                for header, patches in stream.commits(requested, next_shas):
                    if isinstance(patches, list):
                        self._add_commit(header, patches)
                        if (batch := self._changes.pop_full_batch()) is not None:
                            yield batch
                    else:
                        yield from self._add_large_commit(header, patches)
                    index += 1
                    position = self._changes.position
                read_alone = False
            except GitProcessError:
                self._readers.close_stream()
                if self._changes.position[0] > position[0]:
                    raise _DamagedCommitError(self._find_damaged(shas, index)) from None
                self._changes.truncate(position[1])
                # git may have failed at this commit or at the start of the next one: if no object
                # is missing, reading this commit alone tells which.
                if read_alone or has_missing_objects(
                    self._readers.sandbox, self._readers.blobs, shas[index]
                ):
                    self._damaged.add(shas[index])
                read_alone = True
        if (batch := self._changes.flush()) is not None:
            yield batch

    def _next_damaged(self, shas: Sequence[str], start: int) -> int:
        return next((i for i in range(start, len(shas)) if shas[i] in self._damaged), len(shas))

    def _find_damaged(self, shas: Sequence[str], index: int) -> str:
        """Return the commit at which git failed: the one at ``index`` or the next one."""
        if has_missing_objects(self._readers.sandbox, self._readers.blobs, shas[index]):
            return shas[index]
        try:
            alone = shas[index : index + 1]
            for _ in self._readers.stream_for(alone).commits(alone):
                pass
        except GitProcessError:
            self._readers.close_stream()
            return shas[index]
        return shas[min(index + 1, len(shas) - 1)]

    def _add_damaged_commit(self, sha: str) -> Iterator[pa.RecordBatch]:
        header, patches = read_damaged_commit(self._readers.sandbox, self._readers.blobs, sha)
        if patches is None:
            self._counts.unreadable_commits.append(sha)
        yield from self._add_large_commit(header, patches or [])

    def _original_text(self, header: CommitHeader) -> CommitHeader:
        """Return the header with the text that git has converted as it was written."""
        if not header.encoding:
            return header
        commit = next(self._readers.blobs.contents([header.sha]))
        return header if commit is None else restore_original_text(header, commit)

    def _add_commit(self, header: CommitHeader, patches: Sequence[FilePatch]) -> None:
        """Add a commit whose patches are buffered."""
        header = self._original_text(header)
        if not patches:
            self._add_row(header, 0, 0, 0, _NO_CHANGE_IDS)
            return
        n_changes, insertions, deletions, before, after = self._changes.add(header.sha, patches)
        ids = change_ids(change_checksums(before, after))
        self._add_row(header, n_changes, insertions, deletions, ids)

    def _add_large_commit(
        self, header: CommitHeader, patches: Iterable[FilePatch]
    ) -> Iterator[pa.RecordBatch]:
        """Add a commit whose patches are streamed."""
        header = self._original_text(header)
        n_changes = insertions = deletions = 0
        checksums = 0, 0
        for group in _batch_patches(patches):
            totals = self._changes.add(header.sha, group)
            n_changes += totals.n_changes
            insertions += totals.insertions
            deletions += totals.deletions
            checksums = change_checksums(totals.before, totals.after, checksums)
            if (batch := self._changes.pop_full_batch()) is not None:
                yield batch
        ids = change_ids(checksums) if n_changes else _NO_CHANGE_IDS
        self._add_row(header, n_changes, insertions, deletions, ids)

    def _add_row(
        self,
        header: CommitHeader,
        n_changes: int,
        insertions: int,
        deletions: int,
        ids: tuple[int | None, int | None],
    ) -> None:
        time = self._times[len(self._commit_rows)]  # rows are in the order of the shard
        if abs(time - parse_time_s(header.committed_at)) > _MIN_CORRECTION_S:
            self._counts.corrected_dates += 1
        row = commit_row(header, self._options, time, n_changes, insertions, deletions)
        self._commit_rows.append(row + ids)


def _batch_patches(patches: Iterable[FilePatch]) -> Iterator[list[FilePatch]]:
    """Yield groups of patches, limited in number and bytes."""
    group: list[FilePatch] = []
    n_bytes = 0
    for patch in patches:
        group.append(patch)
        n_bytes += len(patch.hunks)
        if len(group) >= _BATCH_PATCHES or n_bytes >= _BATCH_BYTES:
            yield group
            group, n_bytes = [], 0
    if group:
        yield group
