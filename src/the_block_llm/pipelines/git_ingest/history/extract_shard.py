"""One piece of the history: its commits and changes, judged and written as Parquet parts."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from the_block_llm.datasets.parquet_table import write_part
from the_block_llm.pipelines.git_ingest.git.diff_parser import CommitHeader, FilePatch
from the_block_llm.pipelines.git_ingest.git.diff_stream import PatchStream
from the_block_llm.pipelines.git_ingest.git.objects import BlobReader
from the_block_llm.pipelines.git_ingest.git.rev_list import HistoryPiece
from the_block_llm.pipelines.git_ingest.git.sandbox import GitStoppedError, PrivateView
from the_block_llm.pipelines.git_ingest.history.change_rows import ChangeRows
from the_block_llm.pipelines.git_ingest.history.commit_rows import (
    PIECE_COMMITS,
    change_checks,
    change_ids,
    commit_row,
)
from the_block_llm.pipelines.git_ingest.history.damaged_commits import (
    lacks_objects,
    read_damaged_commit,
)
from the_block_llm.pipelines.git_ingest.history.options import HistoryOptions
from the_block_llm.pipelines.git_ingest.redaction.redactor import Redactor
from the_block_llm.pipelines.git_ingest.redaction.rows import RowRedaction
from the_block_llm.pipelines.git_ingest.sharding.counts import Tally
from the_block_llm.pipelines.git_ingest.sharding.record_batches import Row, batches
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import finish_piece
from the_block_llm.schemas import COMMITS, FILE_CHANGES

_SHA_COLUMN: Final = COMMITS.get_field_index("sha")
_SUBJECT_COLUMN: Final = COMMITS.get_field_index("subject")
_BODY_COLUMN: Final = COMMITS.get_field_index("body")
_PATCHES_AT_A_TIME: Final = 256
_BYTES_AT_A_TIME: Final = 1 << 18
_NO_CHANGE: Final = (None, None)  # no ids


class Readers:
    """The git processes that read one piece after the other.

    Starting git and opening its packs costs as much as reading some dozen commits.
    """

    def __init__(self, view: PrivateView) -> None:
        self.view = view
        self.blobs = BlobReader(view)
        self._stream: PatchStream | None = None

    def stream_for(self, shas: Sequence[str]) -> PatchStream:
        """Return a stream that answers for ``shas`` next."""
        if self._stream is not None and not self._stream.can_answer(shas):
            self.close_stream()
        if self._stream is None:
            self._stream = PatchStream(self.view)
        return self._stream

    def close_stream(self) -> None:
        """End the stream; the next use starts another."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        self.close_stream()
        self.blobs.close()


def read_history_piece(
    readers: Readers,
    piece: HistoryPiece,
    options: HistoryOptions,
    stem: Path,
    then: Sequence[str] = (),
) -> dict[str, Any]:
    """Read the commits of ``piece`` and write them beside ``stem``; returns the notes.

    ``then`` are the commits of the piece that these readers will probably read next.
    Writes ``<stem>.changes.parquet`` in the schema FILE_CHANGES, ``<stem>.commits.arrow``
    in PIECE_COMMITS, both in the order of the piece, then the notes.
    """
    damaged: set[str] = set()
    while True:
        try:
            return _PieceReading(readers, options, damaged).write(piece, stem, then)
        except _BeginAgainError as error:
            damaged.add(error.damaged_commit)


class _BeginAgainError(Exception):
    """A commit turned out to be damaged when some of its rows were written already."""

    def __init__(self, damaged_commit: str) -> None:
        super().__init__(damaged_commit)
        self.damaged_commit = damaged_commit


class _PieceReading:
    """State of one pass over a piece."""

    def __init__(self, readers: Readers, options: HistoryOptions, damaged: set[str]) -> None:
        self._readers = readers
        self._options = options
        self._damaged = damaged
        self._tally = Tally()
        self._redaction = RowRedaction(
            Redactor(secrets=options.redact, addresses=options.naming.key is not None), self._tally
        )
        self._commit_rows: list[Row] = []
        self._changes = ChangeRows(
            readers.blobs, readers.view.max_file_bytes, options, self._tally, self._redaction
        )

    def write(self, piece: HistoryPiece, stem: Path, then: Sequence[str]) -> dict[str, Any]:
        changes = stem.with_name(f"{stem.name}.changes.parquet")
        write_part(changes, FILE_CHANGES, self._batches(piece.shas, then))
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
            {"tally": self._tally.as_json(), "missing": sorted(self._changes.missing)},
        )

    def _finish_commits(self, rows: list[Row]) -> list[Row]:
        return self._redaction.short(rows, sha=_SHA_COLUMN, columns=(_SUBJECT_COLUMN, _BODY_COLUMN))

    def _batches(self, shas: Sequence[str], then: Sequence[str]) -> Iterator[pa.RecordBatch]:
        at, is_alone = 0, False
        while at < len(shas):
            if shas[at] in self._damaged:
                yield from self._damaged_commit(shas[at])
                at, is_alone = at + 1, False
                continue
            asked = shas[at : at + 1] if is_alone else shas[at : self._next_damaged(shas, at)]
            after = then if at + len(asked) == len(shas) else ()
            before = self._changes.mark
            try:
                for header, patches in self._readers.stream_for(asked).commits(asked, after):
                    if isinstance(patches, list):
                        self._commit(header, patches)
                        if (batch := self._changes.full_batch()) is not None:
                            yield batch
                    else:
                        yield from self._large_commit(header, patches)
                    at += 1
                    before = self._changes.mark
                is_alone = False
            except GitStoppedError:
                self._readers.close_stream()
                if self._changes.mark[0] > before[0]:
                    raise _BeginAgainError(self._culprit(shas, at)) from None
                self._changes.take_back(before[1])
                # Git may have ended at this commit or at the beginning of the next one: where
                # nothing is missing, alone it shows which.
                if is_alone or lacks_objects(self._readers.view, self._readers.blobs, shas[at]):
                    self._damaged.add(shas[at])
                is_alone = True
        if (batch := self._changes.rest()) is not None:
            yield batch

    def _next_damaged(self, shas: Sequence[str], start: int) -> int:
        return next((i for i in range(start, len(shas)) if shas[i] in self._damaged), len(shas))

    def _culprit(self, shas: Sequence[str], at: int) -> str:
        """Return the commit that ended git while it was to print the one at ``at``."""
        if lacks_objects(self._readers.view, self._readers.blobs, shas[at]):
            return shas[at]
        try:
            alone = shas[at : at + 1]
            for _ in self._readers.stream_for(alone).commits(alone):
                pass
        except GitStoppedError:
            self._readers.close_stream()
            return shas[at]
        return shas[min(at + 1, len(shas) - 1)]

    def _damaged_commit(self, sha: str) -> Iterator[pa.RecordBatch]:
        header, patches = read_damaged_commit(self._readers.view, self._readers.blobs, sha)
        if patches is None:
            self._tally.unreadable_commits.append(sha)
        yield from self._large_commit(header, patches or [])

    def _commit(self, header: CommitHeader, patches: Sequence[FilePatch]) -> None:
        """Add a commit whose changes are all at hand."""
        if not patches:
            self._commit_rows.append(commit_row(header, self._options, 0, 0, 0) + _NO_CHANGE)
            return
        n_changes, insertions, deletions, before, after = self._changes.add(header.sha, patches)
        self._commit_rows.append(
            commit_row(header, self._options, n_changes, insertions, deletions)
            + change_ids(change_checks(before, after))
        )

    def _large_commit(
        self, header: CommitHeader, patches: Iterable[FilePatch]
    ) -> Iterator[pa.RecordBatch]:
        """Add a commit whose changes come one by one, and are too many to be held."""
        n_changes = insertions = deletions = 0
        checks = 0, 0
        for some in _grouped(patches):
            sums = self._changes.add(header.sha, some)
            n_changes += sums.n_changes
            insertions += sums.insertions
            deletions += sums.deletions
            checks = change_checks(sums.before, sums.after, checks)
            if (batch := self._changes.full_batch()) is not None:
                yield batch
        self._commit_rows.append(
            commit_row(header, self._options, n_changes, insertions, deletions)
            + (change_ids(checks) if n_changes else _NO_CHANGE)
        )


def _grouped(patches: Iterable[FilePatch]) -> Iterator[list[FilePatch]]:
    """Yield patches some at a time, few enough to be held."""
    some: list[FilePatch] = []
    n_bytes = 0
    for patch in patches:
        some.append(patch)
        n_bytes += len(patch.hunks)
        if len(some) >= _PATCHES_AT_A_TIME or n_bytes >= _BYTES_AT_A_TIME:
            yield some
            some, n_bytes = [], 0
    if some:
        yield some
