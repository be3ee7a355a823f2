"""Builds the rows of the table ``file_changes`` from patches."""

import functools
from collections.abc import Iterable
from typing import Final, NamedTuple

import pyarrow as pa

from the_block_llm.languages import language_of
from the_block_llm.pipelines.git_ingest.filters.encoding_detection import (
    decode_path,
    find_encoding,
    needs_decoding,
)
from the_block_llm.pipelines.git_ingest.filters.gitattributes import (
    FileAttributes,
    attribute_matcher,
)
from the_block_llm.pipelines.git_ingest.filters.notebooks import is_notebook
from the_block_llm.pipelines.git_ingest.filters.payloads import PayloadCounts, may_hold_payload
from the_block_llm.pipelines.git_ingest.filters.reduction import reduce_text
from the_block_llm.pipelines.git_ingest.filters.rules import (
    confirms,
    patch_drop_reason,
    path_hint,
)
from the_block_llm.pipelines.git_ingest.filters.stand_ins import stand_in_reason
from the_block_llm.pipelines.git_ingest.git.diff_parser import FilePatch, RawChange
from the_block_llm.pipelines.git_ingest.git.objects import BlobReader
from the_block_llm.pipelines.git_ingest.history.options import HistoryOptions
from the_block_llm.pipelines.git_ingest.history.patch_text import (
    UNREAD,
    FileEncodings,
    decode_patch,
)
from the_block_llm.pipelines.git_ingest.redaction.rows import RowRedactor
from the_block_llm.pipelines.git_ingest.sharding.counts import CountedRow, RowCounts
from the_block_llm.pipelines.git_ingest.sharding.record_batches import RecordBatchBuilder, Row
from the_block_llm.schemas import FILE_CHANGES, DropReason

_SYMLINK: Final = b"120000"
_SUBMODULE: Final = b"160000"
_MAX_REDUCTION: Final = 16
"""Patches this many times too large are not searched for binary data."""
_MAX_CACHED_FILES: Final = 4096
_SPECIAL_MODES: Final = frozenset({_SYMLINK, _SUBMODULE})
_PATCH_COLUMN: Final = FILE_CHANGES.get_field_index("patch")
_PATH_COLUMN: Final = FILE_CHANGES.get_field_index("path")
_OLD_PATH_COLUMN: Final = FILE_CHANGES.get_field_index("old_path")
_REASON_COLUMN: Final = FILE_CHANGES.get_field_index("drop_reason")
_REDACTIONS_COLUMN: Final = FILE_CHANGES.get_field_index("redactions")
_SHA_COLUMN: Final = FILE_CHANGES.get_field_index("sha")


class _PathInfo(NamedTuple):
    """What the path alone decides; cached, as a history repeats most paths."""

    path: str
    language: str | None
    counted_language: str | None
    drop_reason: DropReason | None
    is_conclusive: bool
    """False if the content of the file decides."""
    is_notebook: bool
    attributes: FileAttributes


@functools.lru_cache(maxsize=8192)
def _path_info(path: bytes, attributes: FileAttributes) -> _PathInfo:
    text = decode_path(path)
    language = attributes.language or language_of(text[text.rfind("/") + 1 :])
    return _PathInfo(
        text,
        language,
        attributes.counted_language(language),
        *path_hint(text, attributes),
        is_notebook(text),
        attributes,
    )


class ChangeTotals(NamedTuple):
    """Sums over some changes of a commit."""

    n_changes: int
    insertions: int
    deletions: int
    before: list[bytes]
    """Old path and old blob of each change in turn."""
    after: list[bytes]
    """New path and new blob of each change in turn."""


class ChangeRowBuilder:
    """Builds and counts rows of ``file_changes``, and returns them in batches."""

    def __init__(
        self,
        blobs: BlobReader,
        max_file_bytes: int,
        options: HistoryOptions,
        counts: RowCounts,
        redactor: RowRedactor,
    ) -> None:
        self.missing: set[str] = set()
        """Objects that a change needs and the repository lacks."""
        self._blobs = blobs
        self._max_file_bytes = max_file_bytes
        self._options = options
        self._attributes_of = attribute_matcher(options.gitattributes)
        self._counts = counts
        self._redactor = redactor
        self._batches = RecordBatchBuilder(FILE_CHANGES, self._finalize)
        self._encodings: dict[bytes, str | None] = {}
        """Encodings of files, by blob: the file before a change is the one after another."""
        self._verdicts: dict[tuple[str, bytes], bool | None] = {}
        """Whether a file confirms the reason of its path; None if it cannot be read."""
        self._pending_counts: list[CountedRow] = []
        """One for each pending row."""
        self._pending_binaries: dict[int, list[str]] = {}
        """Blobs of the pending rows that are binary, by index of the row."""
        self._pending_payloads: dict[int, PayloadCounts] = {}
        """What was removed from the pending rows, by index of the row."""

    @property
    def position(self) -> tuple[int, int]:
        """Number of batches returned and of rows pending."""
        return self._batches.n_batches, len(self._pending_counts)

    def truncate(self, n_pending: int) -> None:
        """Discard all but the first ``n_pending`` pending rows."""
        del self._batches.pending[n_pending:], self._pending_counts[n_pending:]
        binaries = self._pending_binaries.items()
        self._pending_binaries = {i: blobs for i, blobs in binaries if i < n_pending}
        payloads = self._pending_payloads.items()
        self._pending_payloads = {i: removed for i, removed in payloads if i < n_pending}

    def add(self, sha: str, patches: Iterable[FilePatch]) -> ChangeTotals:
        """Add changes of the commit ``sha``."""
        repo, max_patch_bytes = self._options.repo, self._options.max_patch_bytes
        counts, attributes_of = self._pending_counts, self._attributes_of
        insertions = deletions = n_text_bytes = 0
        before: list[bytes] = []
        after: list[bytes] = []
        rows: list[Row] = []
        # The hottest loop of the pipeline: a function call less saves a tenth of git's time.
        for change, hunks, is_binary, n_added, n_deleted, is_missing in patches:
            old_mode, new_mode, old_blob, new_blob, status, similarity, path, old_path = change
            insertions += n_added
            deletions += n_deleted
            before += (old_path or path, old_blob)
            after += (path, new_blob)
            info = _path_info(path, attributes_of(path))
            text: bytes | str | None = None
            encoding: str | None = None
            n_bytes = len(hunks)
            reason = info.drop_reason
            if is_missing:
                reason, n_bytes = self._unreadable_reason(info, change)
            elif new_mode in _SPECIAL_MODES or old_mode in _SPECIAL_MODES:
                is_submodule = _SUBMODULE in (old_mode, new_mode)
                reason = "submodule" if is_submodule else "symlink"
            elif is_binary:
                self._pending_binaries[len(counts)] = changed_blobs(change)
                reason, n_bytes = reason or "binary", 0
            elif reason is None or not self._is_confirmed(info, change):
                reason = stand_in_reason(hunks)
                kept_hunks = hunks
                if reason is None and (info.is_notebook or may_hold_payload(hunks) is not None):
                    kept_hunks, reason = self._reduce(info.path, hunks)
                    n_bytes = len(kept_hunks)
                if reason is None and n_bytes > max_patch_bytes:
                    reason = "too_large"
                if reason is None:
                    reason = patch_drop_reason(info.path, kept_hunks, info.attributes)
                if reason is None:
                    text, encoding = kept_hunks, "utf-8"
                    if needs_decoding(kept_hunks):
                        text, encoding = self._decode(change, kept_hunks)
                        reason = "undecodable" if text is None else None
                    n_text_bytes += n_bytes
                if reason is not None:
                    self._pending_payloads.pop(len(counts), None)
            counts.append((reason, n_bytes, info.counted_language, encoding, info.path))
            has_lines = not (is_binary or is_missing)
            rows.append((
                repo,
                sha,
                info.path,
                None if old_path is None else decode_path(old_path),
                status,
                similarity,
                info.language,
                n_added if has_lines else None,
                n_deleted if has_lines else None,
                text,
                encoding,
                reason is None,
                reason,
                0,
            ))  # fmt: skip
        self._batches.extend(rows, n_text_bytes)
        return ChangeTotals(len(rows), insertions, deletions, before, after)

    def pop_full_batch(self) -> pa.RecordBatch | None:
        """Return the pending rows as a batch if there are enough, else None."""
        return self._batches.flush() if self._batches.is_full else None

    def flush(self) -> pa.RecordBatch | None:
        """Return the pending rows as a batch, or None if there are none."""
        return self._batches.flush()

    def _decode(self, change: RawChange, hunks: bytes) -> tuple[str | None, str | None]:
        """Return text and encoding of a patch that is not ASCII, or None twice."""
        decoded = decode_patch(
            hunks,
            lambda: FileEncodings(
                self._file_encoding(change.old_blob), self._file_encoding(change.new_blob)
            ),
        )
        return (None, None) if decoded is None else decoded

    def _is_confirmed(self, info: _PathInfo, change: RawChange) -> bool:
        """Return whether the file before or after the change confirms the reason of its path.

        If neither can be read, the path alone decides.
        """
        if info.is_conclusive or info.drop_reason is None:
            return True
        verdicts = []
        for blob in (change.new_blob, change.old_blob):
            verdicts.append(self._confirms(info.path, info.drop_reason, blob))
            if verdicts[-1]:
                return True
        return verdicts == [None, None]

    def _confirms(self, path: str, reason: DropReason, blob: bytes) -> bool | None:
        """Return whether a file confirms the reason, or None if it cannot be read."""
        key = (path, blob)
        if key not in self._verdicts:
            if len(self._verdicts) >= _MAX_CACHED_FILES:
                self._verdicts.clear()
            content = self._read_file(blob)
            self._verdicts[key] = None if content is None else confirms(path, reason, content)
        return self._verdicts[key]

    def _reduce(self, path: str, hunks: bytes) -> tuple[bytes, DropReason | None]:
        """Return a patch without binary data, and the reason to drop it if nothing is left."""
        if len(hunks) > _MAX_REDUCTION * self._options.max_patch_bytes:
            return hunks, "too_large"
        reduced = reduce_text(path, hunks)
        if reduced is None:
            return hunks, None
        self._pending_payloads[len(self._pending_counts)] = reduced.removed
        return reduced.text, "binary" if reduced.is_empty else None

    def _read_file(self, blob: bytes) -> bytes | None:
        """Return the content of a blob; None if there is none or it is too large."""
        sha = blob.decode()
        [size] = self._blobs.sizes([sha])
        if size is None or size > self._max_file_bytes:
            return None
        [content] = self._blobs.contents([sha])
        return content

    def _file_encoding(self, blob: bytes) -> str | None:
        if blob not in self._encodings:
            if len(self._encodings) >= _MAX_CACHED_FILES:
                self._encodings.clear()
            content = self._read_file(blob)
            self._encodings[blob] = UNREAD if content is None else find_encoding(content)
        return self._encodings[blob]

    def _unreadable_reason(self, info: _PathInfo, change: RawChange) -> tuple[DropReason, int]:
        """Return why git could not print the change, and its size in bytes."""
        blobs = changed_blobs(change)
        sizes = self._blobs.sizes(blobs)
        missing = [b for b, size in zip(blobs, sizes, strict=True) if size is None]
        largest = max((size or 0 for size in sizes), default=0)
        if not missing and largest > self._max_file_bytes:
            # Larger than git's allocation limit.
            return info.drop_reason or "too_large", largest
        self.missing.update(missing)
        self._counts.add_missing(missing, info.path)
        return "missing_object", 0

    def _finalize(self, rows: list[Row]) -> list[Row]:
        self._measure_binaries(rows)
        # Counted per batch, not per row: the rows of a damaged commit are discarded again.
        self._counts.add_rows(self._pending_counts)
        self._pending_counts = []
        for payloads in self._pending_payloads.values():
            self._counts.add_payloads(payloads.removed, payloads.removed_bytes)
        self._pending_payloads = {}
        # Paths first: findings in a text name the path.
        self._redactor.redact_paths(
            rows, sha_column=_SHA_COLUMN, columns=(_PATH_COLUMN, _OLD_PATH_COLUMN)
        )
        return self._redactor.redact_text(
            rows,
            sha_column=_SHA_COLUMN,
            path_column=_PATH_COLUMN,
            text_column=_PATCH_COLUMN,
            count_column=_REDACTIONS_COLUMN,
        )

    def _measure_binaries(self, rows: list[Row]) -> None:
        # In one request: asking git for one size takes longer than reading the file's patch.
        blobs = [blob for group in self._pending_binaries.values() for blob in group]
        sizes = iter(self._blobs.sizes(blobs))
        for index, group in self._pending_binaries.items():
            size = max((next(sizes) or 0 for _ in group), default=0)
            reason, _, *others = self._pending_counts[index]
            if reason == "binary" and size > self._max_file_bytes:
                reason = "too_large"
                row = rows[index]
                rows[index] = (*row[:_REASON_COLUMN], reason, *row[_REASON_COLUMN + 1 :])
            self._pending_counts[index] = (reason, size, *others)  # type: ignore[assignment]
        self._pending_binaries = {}


def changed_blobs(change: RawChange) -> list[str]:
    """Return the blobs before and after a change, without submodule commits."""
    versions = ((change.old_mode, change.old_blob), (change.new_mode, change.new_blob))
    return [blob.decode() for mode, blob in versions if mode != _SUBMODULE and blob.strip(b"0")]
