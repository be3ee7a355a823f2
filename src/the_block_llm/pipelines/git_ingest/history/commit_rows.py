"""Builds the row of one commit, with columns for what only the whole history decides."""

import functools
import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from the_block_llm.pipelines.git_ingest.filters.encoding_detection import decode_message
from the_block_llm.pipelines.git_ingest.git.diff_parser import CommitHeader
from the_block_llm.pipelines.git_ingest.history.commit_classifier import (
    classify_subject,
    reverted_sha,
    reverted_subject,
)
from the_block_llm.pipelines.git_ingest.history.options import HistoryOptions
from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import Pseudonymizer, is_bot
from the_block_llm.pipelines.git_ingest.redaction.rows import pseudonymize_trailers
from the_block_llm.schemas import COMMITS

_TRUNCATION_MARKER: Final = "\n[...]"
_INT64: Final = struct.Struct(">q")
_INT32_OFFSET: Final = 1 << 31
_CLOCK_TOLERANCE_S: Final = 86_400

SHARD_COMMITS: Final = pa.schema(
    [
        *COMMITS,
        # Input of revert_detection, which needs the commits of all shards.
        pa.field("subject_form", pa.int64()),
        pa.field("subject_id", pa.int64()),
        pa.field("reverted_subject", pa.int64()),
        pa.field("change_id", pa.int64()),
        pa.field("inverse_id", pa.int64()),
    ]
)


def commit_row(
    header: CommitHeader,
    options: HistoryOptions,
    committed_at: int,
    n_changes: int,
    insertions: int,
    deletions: int,
) -> tuple[Any, ...]:
    """Return the values of SHARD_COMMITS except ``change_id`` and ``inverse_id``.

    Args:
        header: What git prints of the commit.
        options: Options that decide the rows.
        committed_at: Commit time that agrees with the history, in seconds since 1970.
        n_changes: Changed files.
        insertions: Added lines.
        deletions: Removed lines.
    """
    declared = header.encoding.decode("ascii", "replace")
    author = _author(options.pseudonymizer, header.author_name, header.author_email, declared)
    subject, body = _decode_message(header, declared)
    if body:
        body = _truncate(body, options.max_message_bytes).strip("\n")
    body = pseudonymize_trailers(body, options.pseudonymizer)
    is_merge = len(header.parents) > 1
    authored_at, _, utc_offset = header.author_date.partition(b" ")
    info = classify_subject(subject, is_merge=is_merge)
    reverted = reverted_subject(subject)
    return (
        options.repo,
        header.sha,
        header.parents,
        author.id,
        _author_time_s(authored_at, committed_at),
        committed_at,
        _parse_utc_offset_min(utc_offset),
        subject,
        body,
        info.kind,
        is_merge,
        reverted_sha(body),
        author.is_bot,
        info.informative,
        n_changes,
        insertions,
        deletions,
        hash_text(info.normalized),
        hash_text(subject),
        None if reverted is None else hash_text(reverted),
    )


class _Author(NamedTuple):
    id: str
    is_bot: bool


@functools.lru_cache(maxsize=4096)
def _author(pseudonymizer: Pseudonymizer, name: bytes, email: bytes, declared: str) -> _Author:
    identity = decode_message(name, declared), decode_message(email, declared)
    return _Author(pseudonymizer.author_id(*identity), is_bot(*identity))


def hash_text(text: str) -> int:
    """Return a 64-bit hash of ``text`` that is the same in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    number: int = _INT64.unpack(digest.digest())[0]
    return number


def change_checksums(
    before: Sequence[bytes], after: Sequence[bytes], initial: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """Return CRC-32 checksums of changes, before and after the commit.

    Args:
        before: Old path and old blob of each change in turn.
        after: New path and new blob of each change in turn.
        initial: Checksums of the commit's earlier changes.

    >>> first = change_checksums([b"a", b"1"], [b"a", b"2"])
    >>> both = change_checksums([b"a", b"1", b"b", b"1"], [b"a", b"2", b"b", b"2"])
    >>> change_checksums([b"b", b"1"], [b"b", b"2"], first) == both
    True
    """
    states = zip((before, after), initial, strict=True)
    checksums = [zlib.crc32(b"\0".join(state) + b"\0", checksum) for state, checksum in states]
    return checksums[0], checksums[1]


def change_ids(checksums: tuple[int, int]) -> tuple[int, int]:
    """Return the ID of a set of changes and the ID of its inverse, 64 bits each."""
    # A commit reverts another if it takes every file back from blob B to blob A. Both 32-bit
    # checksums must match; they cost a tenth of a digest.
    before, after = checksums
    return ((before - _INT32_OFFSET) << 32) + after, ((after - _INT32_OFFSET) << 32) + before


def _author_time_s(seconds: bytes, committed_at: int) -> int:
    """Return the author time, or the commit time if it is missing, negative, or much later."""
    time = parse_time_s(seconds)
    return time if 0 < time <= committed_at + _CLOCK_TOLERANCE_S else committed_at


def parse_time_s(seconds: bytes) -> int:
    """Return the seconds since 1970 that git prints; 0 if it prints none."""
    try:
        return int(seconds)
    except ValueError:
        return 0


@functools.lru_cache(maxsize=256)
def _parse_utc_offset_min(offset: bytes) -> int:
    """Return the minutes east of UTC of an offset such as ``-0730``."""
    try:
        hours, minutes = divmod(abs(int(offset)), 100)
    except ValueError:
        return 0
    east = min(hours * 60 + minutes, 24 * 60)
    return -east if offset.startswith(b"-") else east


def _decode_message(header: CommitHeader, declared: str) -> tuple[str, str]:
    """Return subject and body, decoded together: the body tells the encoding of the subject."""
    if header.subject.isascii() and not header.body:
        return decode_message(header.subject, declared).strip(), ""
    message = decode_message(header.subject + b"\n" + header.body, declared)
    subject, _, body = message.partition("\n")
    return subject.strip(), body


def _truncate(text: str, max_bytes: int) -> str:
    """Truncate ``text`` to ``max_bytes`` of UTF-8, between two characters."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[:max_bytes].decode("utf-8", "ignore") + _TRUNCATION_MARKER
