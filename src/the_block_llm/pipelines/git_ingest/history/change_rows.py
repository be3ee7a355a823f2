"""Rows of the table ``file_changes``: each change judged, gathered and counted."""

import functools
from collections.abc import Iterable
from typing import Final, NamedTuple

import pyarrow as pa

from the_block_llm.languages import language_of
from the_block_llm.pipelines.git_ingest.filters.encoding_detection import decode, decode_path
from the_block_llm.pipelines.git_ingest.filters.gitattributes import FileMarks, marks_of
from the_block_llm.pipelines.git_ingest.filters.rules import patch_verdict, path_verdict
from the_block_llm.pipelines.git_ingest.git.diff_parser import FilePatch, RawChange
from the_block_llm.pipelines.git_ingest.git.objects import BlobReader
from the_block_llm.pipelines.git_ingest.history.options import HistoryOptions
from the_block_llm.pipelines.git_ingest.redaction.rows import RowRedaction
from the_block_llm.pipelines.git_ingest.sharding.counts import Counted, Tally
from the_block_llm.pipelines.git_ingest.sharding.record_batches import Row, RowBatches
from the_block_llm.schemas import FILE_CHANGES, DropReason

_SYMLINK: Final = b"120000"
_SUBMODULE: Final = b"160000"
_SPECIAL_MODES: Final = frozenset({_SYMLINK, _SUBMODULE})
_PATCH_COLUMN: Final = FILE_CHANGES.get_field_index("patch")
_PATH_COLUMN: Final = FILE_CHANGES.get_field_index("path")
_OLD_PATH_COLUMN: Final = FILE_CHANGES.get_field_index("old_path")
_REASON_COLUMN: Final = FILE_CHANGES.get_field_index("drop_reason")
_COUNT_COLUMN: Final = FILE_CHANGES.get_field_index("redactions")
_SHA_COLUMN: Final = FILE_CHANGES.get_field_index("sha")


class _PathFacts(NamedTuple):
    """What a path tells by itself; a history names most paths many times."""

    path: str
    language: str | None
    counted_as: str | None
    verdict: DropReason | None
    marks: FileMarks


@functools.lru_cache(maxsize=8192)
def _facts_of(path: bytes, marks: FileMarks) -> _PathFacts:
    text = decode_path(path)
    language = marks.language or language_of(text[text.rfind("/") + 1 :])
    return _PathFacts(text, language, marks.counted_as(language), path_verdict(text, marks), marks)


class ChangeSums(NamedTuple):
    """What some changes of a commit add up to."""

    n_changes: int
    insertions: int
    deletions: int
    before: list[bytes]
    """Path and content of each change in turn, as they were."""
    after: list[bytes]
    """As they are."""


class ChangeRows:
    """Changes that wait for their batch, with what the tally will have to know of them."""

    def __init__(
        self,
        blobs: BlobReader,
        max_file_bytes: int,
        options: HistoryOptions,
        tally: Tally,
        redaction: RowRedaction,
    ) -> None:
        self.missing: set[str] = set()
        """Objects that some change needs and the repository lacks."""
        self._blobs = blobs
        self._max_file_bytes = max_file_bytes
        self._options = options
        self._marks = marks_of(options.attributes)
        self._tally = tally
        self._redaction = redaction
        self._batches = RowBatches(FILE_CHANGES, self._finish)
        self._counts: list[Counted] = []
        """Of each change that waits."""
        self._binary: dict[int, list[str]] = {}
        """Contents of the changes that wait and are binary, by their place."""

    @property
    def mark(self) -> tuple[int, int]:
        """How many batches were given out, and how many changes wait."""
        return self._batches.n_batches, len(self._counts)

    def take_back(self, n_changes: int) -> None:
        """Leave only the first ``n_changes`` of the changes that wait."""
        del self._batches.waiting[n_changes:], self._counts[n_changes:]
        self._binary = {i: blobs for i, blobs in self._binary.items() if i < n_changes}

    def add(self, sha: str, patches: Iterable[FilePatch]) -> ChangeSums:
        """Add changes of the commit ``sha``."""
        repo, max_patch_bytes = self._options.repo, self._options.max_patch_bytes
        counts, marks = self._counts, self._marks
        insertions = deletions = n_text_bytes = 0
        before: list[bytes] = []
        after: list[bytes] = []
        rows: list[Row] = []
        # The busiest lines of the whole pipeline: a function less is a tenth of git's time.
        for change, hunks, is_binary, n_added, n_deleted, is_missing in patches:
            old_mode, new_mode, old_blob, new_blob, status, similarity, path, old_path = change
            insertions += n_added
            deletions += n_deleted
            before += (old_path or path, old_blob)
            after += (path, new_blob)
            facts = _facts_of(path, marks(path))
            text: bytes | str | None = None
            encoding: str | None = None
            n_bytes = len(hunks)
            reason = facts.verdict
            if is_missing:
                reason, n_bytes = self._unread(facts, change)
            elif new_mode in _SPECIAL_MODES or old_mode in _SPECIAL_MODES:
                is_submodule = _SUBMODULE in (old_mode, new_mode)
                reason = "submodule" if is_submodule else "symlink"
            elif is_binary:
                self._binary[len(counts)] = changed_blobs(change)
                reason, n_bytes = reason or "binary", 0
            elif reason is None:
                if n_bytes > max_patch_bytes:
                    reason = "too_large"
                else:
                    reason = patch_verdict(facts.path, hunks, facts.marks)
                if reason is None:
                    text, encoding = _decoded(hunks)
                    reason = "undecodable" if text is None else None
                    n_text_bytes += n_bytes
            counts.append((reason, n_bytes, facts.counted_as, encoding, facts.path))
            has_lines = not (is_binary or is_missing)
            rows.append((
                repo,
                sha,
                facts.path,
                None if old_path is None else decode_path(old_path),
                status,
                similarity,
                facts.language,
                n_added if has_lines else None,
                n_deleted if has_lines else None,
                text,
                encoding,
                reason is None,
                reason,
                0,
            ))  # fmt: skip
        self._batches.extend(rows, n_text_bytes)
        return ChangeSums(len(rows), insertions, deletions, before, after)

    def full_batch(self) -> pa.RecordBatch | None:
        """Return what waits if it is enough for a batch."""
        return self._batches.rest() if self._batches.is_full else None

    def rest(self) -> pa.RecordBatch | None:
        """Return what waits as a batch, None where nothing does."""
        return self._batches.rest()

    def _unread(self, facts: _PathFacts, change: RawChange) -> tuple[DropReason, int]:
        """Return why git could not show the change, and its size in bytes."""
        blobs = changed_blobs(change)
        sizes = self._blobs.sizes(blobs)
        missing = [b for b, size in zip(blobs, sizes, strict=True) if size is None]
        largest = max((size or 0 for size in sizes), default=0)
        if not missing and largest > self._max_file_bytes:
            # So large that git was not allowed to load it.
            return facts.verdict or "too_large", largest
        self.missing.update(missing)
        self._tally.note_missing(missing, facts.path)
        return "missing_object", 0

    def _finish(self, rows: list[Row]) -> list[Row]:
        self._measure_binary(rows)
        # Counted here and not row by row: a commit that proves damaged takes its rows back.
        self._tally.count(self._counts)
        self._counts = []
        # Paths first: findings in a text name the path.
        self._redaction.short(rows, sha=_SHA_COLUMN, columns=(_PATH_COLUMN, _OLD_PATH_COLUMN))
        return self._redaction.text(
            rows, sha=_SHA_COLUMN, path=_PATH_COLUMN, text=_PATCH_COLUMN, count=_COUNT_COLUMN
        )

    def _measure_binary(self, rows: list[Row]) -> None:
        # Together, because to ask git about one file takes longer than to read its patch.
        sizes = iter(self._blobs.sizes([b for bs in self._binary.values() for b in bs]))
        for place, blobs in self._binary.items():
            size = max((next(sizes) or 0 for _ in blobs), default=0)
            reason, _, *others = self._counts[place]
            if reason == "binary" and size > self._max_file_bytes:
                reason = "too_large"
                row = rows[place]
                rows[place] = (*row[:_REASON_COLUMN], reason, *row[_REASON_COLUMN + 1 :])
            self._counts[place] = (reason, size, *others)  # type: ignore[assignment]
        self._binary = {}


def changed_blobs(change: RawChange) -> list[str]:
    """Return the contents that a change is made of, without those of submodules."""
    sides = ((change.old_mode, change.old_blob), (change.new_mode, change.new_blob))
    return [blob.decode() for mode, blob in sides if mode != _SUBMODULE and blob.strip(b"0")]


def _decoded(hunks: bytes) -> tuple[bytes | str | None, str | None]:
    if hunks.isascii():
        return hunks, "utf-8"
    decoded = decode(hunks)
    if decoded is None:
        return None, None
    return hunks if decoded.encoding == "utf-8" else decoded.text, decoded.encoding
