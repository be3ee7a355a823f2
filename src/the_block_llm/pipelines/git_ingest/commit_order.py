"""The order of all commits, the cut-off in it, and its division into pieces of work.

Commits are ordered by commit time; those of one second stay in git's topological order,
parents first. Pieces are cut at commits whose own sha says so, so a commit that is added
anywhere changes the piece it falls into and hardly any other.
"""

import datetime as dt
import hashlib
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from the_block_llm.errors import ParameterError, RepositoryError
from the_block_llm.pipelines.git_ingest.piece_cache import PieceCache, finish_piece
from the_block_llm.pipelines.git_ingest.private_view import GitStoppedError, PrivateView

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
    """All commits that are read, oldest first."""

    names: list[bytes]
    """For each commit its sha and those of its parents, separated by spaces."""
    times: "array[int]"
    """Commit times in seconds since 1970, in the same order."""

    def __len__(self) -> int:
        return len(self.names)

    def sha(self, index: int) -> str:
        return self.names[index].split(b" ", 1)[0].decode()

    def newest_at(self, time: int) -> int | None:
        """Index of the newest commit at or before ``time``."""
        n_before = sum(1 for moment in self.times if moment <= time)
        return n_before - 1 if n_before else None

    def pieces(self) -> Iterator["HistoryPiece"]:
        """Yield consecutive runs of commits, each named by what is in it."""
        start = mean = 0
        for index, name in enumerate(self.names):
            mean = _MEAN_COMMITS_FROM.get(index, mean)
            ends_here = int(name[:8], 16) % mean == 0
            if ends_here or index - start + 1 >= _MAX_OF_MEAN * mean:
                yield HistoryPiece.of(self.names[start : index + 1])
                start = index + 1
        if start < len(self.names):
            yield HistoryPiece.of(self.names[start:])


@dataclass(frozen=True)
class HistoryPiece:
    """A run of commits that is read, written and kept as one."""

    shas: list[str]
    digest: str
    """Of the shas and parents: a shallow clone that was deepened has other parents."""

    @classmethod
    def of(cls, names: list[bytes]) -> "HistoryPiece":
        digest = hashlib.sha256(b"\n".join(names)).hexdigest()[:24]
        return cls([name.split(b" ", 1)[0].decode() for name in names], digest)


def list_commits(
    view: PrivateView, head: str, *, all_branches: bool, since: dt.datetime | None
) -> CommitOrder:
    """List the commits that can be reached from ``head``, and from every branch if asked.

    Raises:
        RepositoryError: A commit itself is missing or damaged, or ``since`` leaves none.
    """
    names: list[bytes] = []
    times = array("q")
    earliest = int(since.timestamp()) if since else None
    branches = ("--branches", "--remotes") if all_branches else ()
    try:
        for line in view.lines(
            "rev-list", "--topo-order", "--reverse", "--parents", "--timestamp", *branches, head
        ):
            stamp, name = line.split(b" ", 1)
            time = min(max(int(stamp), 0), LATEST_TIME)
            if earliest is None or time >= earliest:
                names.append(name)
                times.append(time)
    except GitStoppedError as error:
        raise RepositoryError(
            "The repository lacks commits of its own history, so its order is unknown. Repair it "
            "(`git fsck` names what is missing, `git fetch` may bring it) or clone it again."
        ) from error
    if not names:
        raise RepositoryError(
            f"No commit is left after git_ingest.since={since}. Give an earlier moment or none."
        )
    order = sorted(range(len(names)), key=times.__getitem__)
    return CommitOrder([names[i] for i in order], array("q", (times[i] for i in order)))


def remember_order(cache: PieceCache, name: str, order: CommitOrder) -> None:
    """Keep ``order`` under ``name``, in the place of any other."""
    stem = cache.stem(name)
    names, times = stem.with_suffix(".names"), stem.with_suffix(".times")
    names.write_bytes(b"\n".join(order.names))
    times.write_bytes(order.times.tobytes())
    finish_piece(stem, [names, times], {})
    cache.sweep([name])


def remembered_order(cache: PieceCache, name: str) -> CommitOrder | None:
    """Return the order that was kept under ``name``, None where there is none."""
    if cache.notes(name) is None:
        return None
    stem = cache.stem(name)
    times = array("q")
    times.frombytes(stem.with_suffix(".times").read_bytes())
    return CommitOrder(stem.with_suffix(".names").read_bytes().split(b"\n"), times)


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
