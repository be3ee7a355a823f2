"""The row of one commit, with what is needed to settle the rest when all are known."""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from the_block_llm.pipelines.git_ingest.authors import is_bot
from the_block_llm.pipelines.git_ingest.commit_order import LATEST_TIME
from the_block_llm.pipelines.git_ingest.decoding import decode_message
from the_block_llm.pipelines.git_ingest.history_options import HistoryOptions
from the_block_llm.pipelines.git_ingest.patch_stream import CommitHeader
from the_block_llm.pipelines.git_ingest.row_redaction import without_names
from the_block_llm.pipelines.git_ingest.subjects import (
    commit_kind,
    normal_form,
    reverted_sha,
    reverted_subject,
    says_something,
)
from the_block_llm.schemas import COMMITS

_CUT: Final = "\n[...]"
_digest: Final = functools.partial(hashlib.blake2b, digest_size=8)

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
    return _number(_digest(text.encode("utf-8", "surrogatepass")))


def _number(digest: "hashlib.blake2b") -> int:
    return int.from_bytes(digest.digest(), "big", signed=True)


class ChangeIds:
    """Numbers for a set of changes and for the one that undoes it."""

    def __init__(self) -> None:
        self._digests: tuple[hashlib.blake2b, hashlib.blake2b] | None = None

    def add(self, sides: Sequence[bytes]) -> None:
        """Take old path, old blob, new path and new blob of each change in turn."""
        if self._digests is None:
            self._digests = _digest(), _digest()
        # A commit undoes another exactly where it takes every file back from blob B to blob A.
        inverse = list(sides)
        inverse[0::4], inverse[1::4], inverse[2::4], inverse[3::4] = (
            sides[2::4], sides[3::4], sides[0::4], sides[1::4],
        )  # fmt: skip
        for digest, parts in zip(self._digests, (sides, inverse), strict=True):
            digest.update(b"\0".join(parts) + b"\0")

    def numbers(self, sides: Sequence[bytes]) -> tuple[int | None, int | None]:
        """Return the two numbers of all that was added and of ``sides``; None for no change."""
        if sides:
            self.add(sides)
        if self._digests is None:
            return None, None
        forth, back = self._digests
        return _number(forth), _number(back)


def _clamped(seconds: bytes | str) -> int:
    # Damaged or playful dates exist; a timestamp column has to hold them all.
    try:
        return min(max(int(seconds), 0), LATEST_TIME)
    except ValueError:
        return 0


@functools.lru_cache(maxsize=256)
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
