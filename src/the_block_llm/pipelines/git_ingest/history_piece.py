"""One piece of the history: its commits and changes, judged and written as Parquet parts."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from the_block_llm.datasets.parts import write_part
from the_block_llm.pipelines.git_ingest.attributes import FileMarks, marks_of
from the_block_llm.pipelines.git_ingest.blob_reader import BlobReader
from the_block_llm.pipelines.git_ingest.commit_order import HistoryPiece
from the_block_llm.pipelines.git_ingest.damaged import (
    changed_blobs,
    lacks_objects,
    read_damaged_commit,
)
from the_block_llm.pipelines.git_ingest.decoding import decode, decode_path
from the_block_llm.pipelines.git_ingest.history_options import HistoryOptions
from the_block_llm.pipelines.git_ingest.languages import language_of
from the_block_llm.pipelines.git_ingest.patch_stream import (
    CommitHeader,
    FilePatch,
    PatchStream,
)
from the_block_llm.pipelines.git_ingest.piece_cache import finish_piece
from the_block_llm.pipelines.git_ingest.piece_commits import PIECE_COMMITS, ChangeIds, commit_row
from the_block_llm.pipelines.git_ingest.private_view import GitStoppedError, PrivateView
from the_block_llm.pipelines.git_ingest.redaction import Redactor
from the_block_llm.pipelines.git_ingest.row_redaction import RowRedaction
from the_block_llm.pipelines.git_ingest.rows import Row, RowBatches, batches
from the_block_llm.pipelines.git_ingest.selection import patch_verdict, path_verdict
from the_block_llm.pipelines.git_ingest.tally import Tally
from the_block_llm.schemas import COMMITS, FILE_CHANGES, DropReason

_SYMLINK: Final = b"120000"
_SUBMODULE: Final = b"160000"
_PATCH_COLUMN: Final = FILE_CHANGES.get_field_index("patch")
_PATH_COLUMN: Final = FILE_CHANGES.get_field_index("path")
_OLD_PATH_COLUMN: Final = FILE_CHANGES.get_field_index("old_path")
_REASON_COLUMN: Final = FILE_CHANGES.get_field_index("drop_reason")
_COUNT_COLUMN: Final = FILE_CHANGES.get_field_index("redactions")
_SHA_COLUMN: Final = COMMITS.get_field_index("sha")  # the same in both tables
_SUBJECT_COLUMN: Final = COMMITS.get_field_index("subject")
_BODY_COLUMN: Final = COMMITS.get_field_index("body")
_SIDES_AT_A_TIME: Final = 4 * 1024  # so that a commit of a million files fits into memory


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


class _PathFacts(NamedTuple):
    """What a path tells by itself; a history names most paths many times."""

    path: str
    language: str | None
    verdict: DropReason | None
    marks: FileMarks


@functools.lru_cache(maxsize=16_384)
def _facts_of(path: bytes, marks: FileMarks) -> _PathFacts:
    text = decode_path(path)
    language = marks.language or language_of(text[text.rfind("/") + 1 :])
    return _PathFacts(text, language, path_verdict(text, marks), marks)


class _Counted(NamedTuple):
    """What the tally has to know of a change."""

    reason: DropReason | None
    n_bytes: int
    language: str | None
    encoding: str | None
    path: str


class _PieceReading:
    """State of one pass over a piece."""

    def __init__(self, readers: Readers, options: HistoryOptions, damaged: set[str]) -> None:
        self._readers = readers
        self._options = options
        self._damaged = damaged
        self._marks = marks_of(options.attributes)
        self._tally = Tally()
        self._redaction = RowRedaction(
            Redactor(secrets=options.redact, addresses=options.naming.key is not None), self._tally
        )
        self._missing: set[str] = set()
        self._commit_rows: list[Row] = []
        self._changes = RowBatches(FILE_CHANGES, _PATCH_COLUMN, self._finish_changes)
        self._counts: list[_Counted] = []
        """Of each change that waits in ``_changes``."""
        self._binary: dict[int, list[str]] = {}
        """Contents of the changes that wait there and are binary, by their place."""

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
            {"tally": self._tally.as_json(), "missing": sorted(self._missing)},
        )

    def _finish_changes(self, rows: list[Row]) -> list[Row]:
        self._measure_binary(rows)
        # Counted here and not row by row: a commit that proves damaged takes its rows back.
        for reason, n_bytes, language, encoding, path in self._counts:
            if reason is None:
                self._tally.keep(n_bytes, language, encoding, path)
            else:
                self._tally.drop(reason, n_bytes)
        self._counts = []
        # Paths first: findings in a text name the path.
        self._redaction.short(rows, sha=_SHA_COLUMN, columns=(_PATH_COLUMN, _OLD_PATH_COLUMN))
        return self._redaction.text(
            rows, sha=_SHA_COLUMN, path=_PATH_COLUMN, text=_PATCH_COLUMN, count=_COUNT_COLUMN
        )

    def _measure_binary(self, rows: list[Row]) -> None:
        # Together, because to ask git about one file takes longer than to read its patch.
        sizes = iter(self._readers.blobs.sizes([b for bs in self._binary.values() for b in bs]))
        for place, blobs in self._binary.items():
            size = max((next(sizes) or 0 for _ in blobs), default=0)
            counted = self._counts[place]._replace(n_bytes=size)
            if counted.reason == "binary" and size > self._readers.view.max_file_bytes:
                counted = counted._replace(reason="too_large")
                row = rows[place]
                rows[place] = (*row[:_REASON_COLUMN], counted.reason, *row[_REASON_COLUMN + 1 :])
            self._counts[place] = counted
        self._binary = {}

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
            before = self._changes.n_batches, len(self._changes.waiting)
            try:
                for header, patches in self._readers.stream_for(asked).commits(asked, after):
                    yield from self._commit(header, patches)
                    at += 1
                    before = self._changes.n_batches, len(self._changes.waiting)
                is_alone = False
            except GitStoppedError:
                self._readers.close_stream()
                if self._changes.n_batches > before[0]:
                    raise _BeginAgainError(self._culprit(shas, at)) from None
                self._take_back(before[1])
                # Git may have ended at this commit or at the beginning of the next one: where
                # nothing is missing, alone it shows which.
                if is_alone or lacks_objects(self._readers.view, self._readers.blobs, shas[at]):
                    self._damaged.add(shas[at])
                is_alone = True
        if (batch := self._changes.rest()) is not None:
            yield batch

    def _take_back(self, n_changes: int) -> None:
        """Leave only the first ``n_changes`` of the changes that wait."""
        del self._changes.waiting[n_changes:], self._counts[n_changes:]
        self._binary = {i: blobs for i, blobs in self._binary.items() if i < n_changes}

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
        yield from self._commit(header, patches or iter(()))

    def _commit(
        self, header: CommitHeader, patches: Iterator[FilePatch]
    ) -> Iterator[pa.RecordBatch]:
        insertions = deletions = n_changes = 0
        sides: list[bytes] = []
        ids = ChangeIds()
        for patch in patches:
            insertions += patch.additions
            deletions += patch.deletions
            change = patch.change
            sides += (change.old_path or change.path, change.old_blob, change.path, change.new_blob)
            n_changes += 1
            if len(sides) >= _SIDES_AT_A_TIME:
                ids.add(sides)
                sides.clear()
            if (batch := self._changes.add(self._change_row(header.sha, patch))) is not None:
                yield batch
        self._commit_rows.append(
            commit_row(header, self._options, n_changes, insertions, deletions) + ids.numbers(sides)
        )

    def _change_row(self, sha: str, patch: FilePatch) -> Row:
        change = patch.change
        facts = _facts_of(change.path, self._marks(change.path))
        text, encoding, reason, n_bytes = self._judged(facts, patch)
        counted_as = facts.marks.counted_as(facts.language)
        self._counts.append(_Counted(reason, n_bytes, counted_as, encoding, facts.path))
        has_lines = not (patch.is_binary or patch.is_missing)
        return (
            self._options.repo,
            sha,
            facts.path,
            None if change.old_path is None else decode_path(change.old_path),
            change.status,
            change.similarity,
            facts.language,
            patch.additions if has_lines else None,
            patch.deletions if has_lines else None,
            text,
            encoding,
            reason is None,
            reason,
            0,
        )

    def _judged(
        self, facts: _PathFacts, patch: FilePatch
    ) -> tuple[bytes | str | None, str | None, DropReason | None, int]:
        """Return text, encoding, reason to drop it, and size in bytes."""
        change, hunks = patch.change, patch.hunks
        n_bytes = len(hunks)
        if patch.is_missing:
            blobs = changed_blobs(change)
            sizes = self._readers.blobs.sizes(blobs)
            missing = [b for b, size in zip(blobs, sizes, strict=True) if size is None]
            largest = max((size or 0 for size in sizes), default=0)
            if not missing and largest > self._readers.view.max_file_bytes:
                # So large that git was not allowed to load it.
                return None, None, facts.verdict or "too_large", largest
            self._missing.update(missing)
            self._tally.note_missing(missing, facts.path)
            return None, None, "missing_object", 0
        modes = (change.old_mode, change.new_mode)
        if _SUBMODULE in modes or _SYMLINK in modes:
            return None, None, "submodule" if _SUBMODULE in modes else "symlink", n_bytes
        reason = facts.verdict
        if patch.is_binary:
            self._binary[len(self._counts)] = changed_blobs(change)
            return None, None, reason or "binary", 0
        if reason is None and n_bytes > self._options.max_patch_bytes:
            reason = "too_large"
        reason = reason or patch_verdict(facts.path, hunks, facts.marks)
        if reason is not None:
            return None, None, reason, n_bytes
        if hunks.isascii():
            return hunks, "utf-8", None, n_bytes
        decoded = decode(hunks)
        if decoded is None:
            return None, None, "undecodable", n_bytes
        text = hunks if decoded.encoding == "utf-8" else decoded.text
        return text, decoded.encoding, None, n_bytes
