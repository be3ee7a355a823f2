"""The row of one commit, with what is needed to settle the rest when all are known."""

import functools
import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from the_block_llm.pipelines.git_ingest.filters.encoding_detection import decode_message
from the_block_llm.pipelines.git_ingest.git.diff_parser import CommitHeader
from the_block_llm.pipelines.git_ingest.git.rev_list import LATEST_TIME
from the_block_llm.pipelines.git_ingest.history.commit_classifier import (
    read_subject,
    reverted_sha,
    reverted_subject,
)
from the_block_llm.pipelines.git_ingest.history.options import HistoryOptions
from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import AuthorNaming, is_bot
from the_block_llm.pipelines.git_ingest.redaction.rows import without_names
from the_block_llm.schemas import COMMITS

_CUT: Final = "\n[...]"
_NUMBER: Final = struct.Struct(">q")
_HALF: Final = 1 << 31

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


def commit_row(
    header: CommitHeader, options: HistoryOptions, n_changes: int, insertions: int, deletions: int
) -> tuple[Any, ...]:
    """Return the values of PIECE_COMMITS without the last two, which are of the changes."""
    author = _author(options.naming, header.author_name, header.author_email)
    subject = decode_message(header.subject).strip()
    body = _cut(header.body, options.max_message_bytes).strip("\n") if header.body else ""
    body = without_names(body, options.naming)
    is_merge = len(header.parents) > 1
    seconds, _, offset = header.author_date.partition(b" ")
    told = read_subject(subject, is_merge=is_merge)
    undone = reverted_subject(subject)
    return (
        options.repo,
        header.sha,
        header.parents,
        author.id,
        _clamped(seconds),
        _clamped(header.committed_at),
        _minutes(offset),
        subject,
        body,
        told.kind,
        is_merge,
        reverted_sha(body),
        author.is_bot,
        told.informative,
        n_changes,
        insertions,
        deletions,
        text_id(told.form),
        text_id(subject),
        None if undone is None else text_id(undone),
    )


class _Author(NamedTuple):
    id: str
    is_bot: bool


@functools.lru_cache(maxsize=4096)
def _author(naming: AuthorNaming, name: bytes, email: bytes) -> _Author:
    names = decode_message(name), decode_message(email)
    return _Author(naming.author_id(*names), is_bot(*names))


def text_id(text: str) -> int:
    """Return a number of 64 bits that stands for ``text``, the same in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    number: int = _NUMBER.unpack(digest.digest())[0]
    return number


def change_checks(
    before: Sequence[bytes], after: Sequence[bytes], so_far: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """Return sums of changes as they were and as they are, path and content of each in turn.

    >>> first = change_checks([b"a", b"1"], [b"a", b"2"])
    >>> both = change_checks([b"a", b"1", b"b", b"1"], [b"a", b"2", b"b", b"2"])
    >>> change_checks([b"b", b"1"], [b"b", b"2"], first) == both
    True
    """
    sides = zip((before, after), so_far, strict=True)
    checks = [zlib.crc32(b"\0".join(side) + b"\0", check) for side, check in sides]
    return checks[0], checks[1]


def change_ids(checks: tuple[int, int]) -> tuple[int, int]:
    """Return numbers for a set of changes and for the one that undoes it."""
    # A commit undoes another exactly where it takes every file back from blob B to blob A. Both
    # sums of 32 bits have to agree, and cost a tenth of a digest.
    before, after = checks
    return ((before - _HALF) << 32) + after, ((after - _HALF) << 32) + before


def _clamped(seconds: bytes) -> int:
    # Damaged or playful dates exist; a timestamp column has to hold them all.
    try:
        return min(max(int(seconds), 0), LATEST_TIME)
    except ValueError:
        return 0


@functools.lru_cache(maxsize=256)
def _minutes(offset: bytes) -> int:
    """Minutes east of UTC of an offset such as ``-0730``."""
    try:
        hours, minutes = divmod(abs(int(offset)), 100)
    except ValueError:
        return 0
    east = min(hours * 60 + minutes, 24 * 60)
    return -east if offset.startswith(b"-") else east


def _cut(message: bytes, max_bytes: int) -> str:
    if len(message) <= max_bytes:
        return decode_message(message)
    return decode_message(message[:max_bytes]) + _CUT
