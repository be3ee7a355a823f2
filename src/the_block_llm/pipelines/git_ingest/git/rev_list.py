"""The order of all commits, the cut-off in it, and its division into pieces of work.

Commits are ordered by commit time; those of one second stay in git's topological order,
parents first. Pieces are cut at commits whose own sha says so, so a commit that is added
anywhere changes the piece it falls into and hardly any other.
"""

import datetime as dt
import hashlib
import itertools
import math
import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from the_block_llm.errors import ParameterError, RepositoryError
from the_block_llm.pipelines.git_ingest.git.sandbox import GitStoppedError, PrivateView
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import PieceCache, finish_piece

# Mean size of a piece from that many commits on. A short history has pieces enough for every
# core, a long one not so many files that opening them takes the time; and since the beginning
# of a history is cut the same way however long it grows, its pieces are never read again.
_MEAN_COMMITS_FROM: Final = {0: 64, 512: 256, 2048: 512, 16384: 1024}
_MAX_OF_MEAN: Final = 2
LATEST_TIME: Final = 253_402_300_799
"""The last second of the year 9999; commit times beyond are damage."""

Cutoff = float | int | str | dt.date | None


@dataclass(frozen=True)
class CommitOrder:
    """All commits that are read, oldest first, in some 60 bytes each."""

    packed: bytes | bytearray
    """For each commit its sha and those of its parents."""
    starts: "array[int]"
    """Where each begins in ``packed``, and where the last one ends."""
    times: "array[int]"
    """Commit times in seconds since 1970, in the same order."""
    sha_bytes: int
    """How long a sha is: 20, or 32 with SHA-256."""

    def __len__(self) -> int:
        return len(self.times)

    def sha(self, index: int) -> str:
        start = self.starts[index]
        return self.packed[start : start + self.sha_bytes].hex()

    def pieces(self) -> Iterator["HistoryPiece"]:
        """Yield consecutive runs of commits, each named by what is in it."""
        begin = mean = 0
        for index, start in enumerate(self.starts[:-1]):
            mean = _MEAN_COMMITS_FROM.get(index, mean)
            ends_here = int.from_bytes(self.packed[start : start + 4], "big") % mean == 0
            if ends_here or index - begin + 1 >= _MAX_OF_MEAN * mean:
                yield HistoryPiece(self, begin, index + 1)
                begin = index + 1
        if begin < len(self):
            yield HistoryPiece(self, begin, len(self))


@dataclass(frozen=True)
class HistoryPiece:
    """A run of commits that is read, written and kept as one."""

    order: CommitOrder
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def shas(self) -> list[str]:
        return [self.order.sha(index) for index in range(self.begin, self.end)]

    @property
    def digest(self) -> str:
        """Of shas and parents: a shallow clone that was deepened has other parents."""
        starts = self.order.starts[self.begin : self.end + 1]
        lengths = array("Q", (end - start for start, end in itertools.pairwise(starts)))
        digest = hashlib.sha256(lengths.tobytes())
        digest.update(memoryview(self.order.packed)[starts[0] : starts[-1]])
        return digest.hexdigest()[:24]


def list_commits(
    view: PrivateView, head: str, *, all_branches: bool, since: dt.datetime | None
) -> CommitOrder:
    """List the commits that can be reached from ``head``, and from every branch if asked.

    Raises:
        RepositoryError: A commit itself is missing or damaged, or ``since`` leaves none.
    """
    packed, starts, times = bytearray(), array("Q", [0]), array("q")
    earliest = int(since.timestamp()) if since else None
    tips = f"{head}\n".encode()
    if all_branches:
        # By sha: of a ref whose name or commit is broken, rev-list would give up altogether.
        tips += view.read("for-each-ref", "--format=%(objectname)", "refs/heads", "refs/remotes")
    try:
        with tempfile.TemporaryFile() as file:
            file.write(tips)
            file.seek(0)
            for line in view.lines(
                "rev-list", "--topo-order", "--reverse", "--parents", "--timestamp",
                "--ignore-missing", "--stdin", stdin=file,
            ):  # fmt: skip
                stamp, name = line.split(b" ", 1)
                time = min(max(int(stamp), 0), LATEST_TIME)
                if earliest is None or time >= earliest:
                    packed += bytes.fromhex(name.decode("ascii"))
                    starts.append(len(packed))
                    times.append(time)
    except GitStoppedError as error:
        raise RepositoryError(
            "The repository lacks commits of its own history, so its order is unknown. Repair it "
            "(`git fsck` names what is missing, `git fetch` may bring it) or clone it again."
        ) from error
    if not times:
        raise RepositoryError(
            f"No commit is left after git_ingest.since={since}. Give an earlier moment or none."
        )
    return _by_time(CommitOrder(packed, starts, times, len(head) // 2))


def _by_time(order: CommitOrder) -> CommitOrder:
    times = np.frombuffer(order.times, np.int64)
    packed, starts = bytearray(), array("Q", [0])
    places = np.argsort(times, kind="stable")
    for place in places:
        packed += order.packed[order.starts[place] : order.starts[place + 1]]
        starts.append(len(packed))
    return CommitOrder(packed, starts, array("q", times[places].tobytes()), order.sha_bytes)


def remember_order(cache: PieceCache, name: str, order: CommitOrder) -> None:
    """Keep ``order`` under ``name``, in the place of any other."""
    stem = cache.stem(name)
    columns = {".shas": order.packed, ".starts": order.starts, ".times": order.times}
    for suffix, column in columns.items():
        stem.with_suffix(suffix).write_bytes(column)
    files = [stem.with_suffix(suffix) for suffix in columns]
    finish_piece(stem, files, {"sha_bytes": order.sha_bytes})
    cache.sweep([name])


def remembered_order(cache: PieceCache, name: str) -> CommitOrder | None:
    """Return the order that was kept under ``name``, None where there is none."""
    notes = cache.notes(name)
    if notes is None:
        return None
    stem = cache.stem(name)
    starts, times = array("Q"), array("q")
    starts.frombytes(stem.with_suffix(".starts").read_bytes())
    times.frombytes(stem.with_suffix(".times").read_bytes())
    packed = stem.with_suffix(".shas").read_bytes()
    return CommitOrder(packed, starts, times, notes["sha_bytes"])


def cutoff_time(times: "array[int]", cutoff: Cutoff) -> int:
    """Return the time T0 at or before which a commit belongs to training.

    Args:
        times: Of all commits, ascending, in seconds.
        cutoff: A fraction of them between 0 and 1, a date (its last second counts, in UTC)
            or moment in ISO form, or None for all of them.

    Raises:
        ParameterError: It is none of these, or no commit is that old.

    >>> cutoff_time(array("q", [10, 20, 30, 40]), 0.5)
    20
    """
    if cutoff is None:
        return times[-1]
    if isinstance(cutoff, int | float) and not isinstance(cutoff, bool):
        if not 0 < cutoff < 1:
            raise ParameterError(
                f"sequence_build.cutoff={cutoff} is not between 0 and 1. Give a fraction of the "
                "commits, an ISO date, or null to train on everything."
            )
        return times[max(1, math.floor(cutoff * len(times))) - 1]
    time = _seconds(cutoff)
    if time < times[0]:
        first = dt.datetime.fromtimestamp(times[0], dt.UTC).date()
        raise ParameterError(
            f"sequence_build.cutoff={cutoff} lies before the first commit ({first}). Give a "
            "later date."
        )
    return time


def _seconds(cutoff: object) -> int:
    text = str(cutoff).strip()
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ParameterError(
            f"sequence_build.cutoff={cutoff!r} is neither a fraction nor an ISO date such as "
            "2025-06-30."
        ) from None
    if len(text) == len("2025-06-30"):
        moment += dt.timedelta(days=1, seconds=-1)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return int(moment.timestamp())
