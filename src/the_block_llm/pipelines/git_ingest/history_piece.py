"""One piece of the history: its commits and changes, judged and written as Parquet parts."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from the_block_llm.datasets.parts import write_part
from the_block_llm.pipelines.git_ingest.authors import AuthorNaming, is_bot
from the_block_llm.pipelines.git_ingest.blob_reader import BlobReader
from the_block_llm.pipelines.git_ingest.commit_order import LATEST_TIME, HistoryPiece
from the_block_llm.pipelines.git_ingest.damaged import (
    changed_blobs,
    lacks_objects,
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
from the_block_llm.pipelines.git_ingest.rows import Row, RowBatches, batches
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


@functools.lru_cache(maxsize=65_536)
def _facts_of(path: bytes) -> _PathFacts:
    text = decode_path(path)
    return _PathFacts(text, language_of(text[text.rfind("/") + 1 :]), path_verdict(text))


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
        self._missing: set[str] = set()
        self._commit_rows: list[Row] = []
        self._changes = RowBatches(FILE_CHANGES, _PATCH_COLUMN, self._finish_changes)
        self._counts: list[tuple[DropReason | None, int, str | None, str | None, str]] = []
        """What the tally has to know of each change that waits in ``_changes``."""

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
        return finish_piece(
            stem,
            [changes, commits],
            {"tally": self._tally.as_json(), "missing": sorted(self._missing)},
        )

    def _finish_changes(self, rows: list[Row]) -> list[Row]:
        # Counted here and not row by row: a commit that proves damaged takes its rows back.
        for reason, n_bytes, language, encoding, path in self._counts:
            if reason is None:
                self._tally.keep(n_bytes, language, encoding, path)
            else:
                self._tally.drop(reason, n_bytes)
        self._counts = []
        self._redaction.text(
            rows, sha=_SHA_COLUMN, path=_PATH_COLUMN, text=_PATCH_COLUMN, count=_COUNT_COLUMN
        )
        return self._redaction.short(
            rows, sha=_SHA_COLUMN, columns=(_PATH_COLUMN, _OLD_PATH_COLUMN)
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
                del self._changes.waiting[before[1] :], self._counts[before[1] :]
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
        yield from self._commit(header, patches or iter(()))

    def _commit(
        self, header: CommitHeader, patches: Iterator[FilePatch]
    ) -> Iterator[pa.RecordBatch]:
        insertions = deletions = 0
        sides: list[bytes] = []
        for patch in patches:
            insertions += patch.additions
            deletions += patch.deletions
            change = patch.change
            sides += (change.old_path or change.path, change.old_blob, change.path, change.new_blob)
            if (batch := self._changes.add(self._change_row(header.sha, patch))) is not None:
                yield batch
        self._commit_rows.append(
            _commit_row(header, self._options, len(sides) // 4, insertions, deletions)
            + _change_ids(sides)
        )

    def _change_row(self, sha: str, patch: FilePatch) -> Row:
        change = patch.change
        facts = _facts_of(change.path)
        text, encoding, reason, n_bytes = self._judged(facts, patch)
        self._counts.append((reason, n_bytes, facts.language, encoding, facts.path))
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
            self._missing.update(b for b, size in zip(blobs, sizes, strict=True) if size is None)
            return None, None, "missing_object", 0
        modes = (change.old_mode, change.new_mode)
        if _SUBMODULE in modes or _SYMLINK in modes:
            return None, None, "submodule" if _SUBMODULE in modes else "symlink", n_bytes
        reason = facts.verdict
        if patch.is_binary:
            sizes = self._readers.blobs.sizes(changed_blobs(change))
            size = max((size or 0 for size in sizes), default=0)
            is_large = size > self._readers.view.max_file_bytes
            return None, None, reason or ("too_large" if is_large else "binary"), size
        if reason is None and n_bytes > self._options.max_patch_bytes:
            reason = "too_large"
        reason = reason or patch_verdict(facts.path, hunks)
        if reason is not None:
            return None, None, reason, n_bytes
        if hunks.isascii():
            return hunks, "utf-8", None, n_bytes
        decoded = decode(hunks)
        if decoded is None:
            return None, None, "undecodable", n_bytes
        text = hunks if decoded.encoding == "utf-8" else decoded.text
        return text, decoded.encoding, None, n_bytes


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
    return _number(text.encode("utf-8", "surrogatepass"))


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


def _change_ids(sides: Sequence[bytes]) -> tuple[int | None, int | None]:
    """Return numbers for a set of changes and for the one that undoes it.

    Args:
        sides: Old path, old blob, new path and new blob of each change in turn.
    """
    if not sides:
        return None, None
    # A commit undoes another exactly where it takes every file back from blob B to blob A.
    inverse = list(sides)
    inverse[0::4], inverse[1::4], inverse[2::4], inverse[3::4] = (
        sides[2::4], sides[3::4], sides[0::4], sides[1::4],
    )  # fmt: skip
    return _number(b"\0".join(sides)), _number(b"\0".join(inverse))


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
