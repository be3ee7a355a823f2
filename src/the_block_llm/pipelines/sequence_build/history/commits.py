"""The history as this stage needs it: commits in order, each on its side of the cut-off."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from the_block_llm.datasets.cutoff import Cutoff, as_utc, read_cutoff
from the_block_llm.datasets.repository_rows import RowSource
from the_block_llm.errors import StaleDataError, TooLittleDataError
from the_block_llm.schemas import Split

_FEWEST_COMMITS: Final = 3  # one each to train on, to choose a checkpoint by, to evaluate with


@dataclass(frozen=True, slots=True)
class Commit:
    """What documents say of a commit."""

    sha: str
    authored_at: datetime
    committed_at: datetime
    subject: str
    body: str
    kind: str
    is_merge: bool
    is_bot: bool
    reverts: str | None
    informative: bool
    insertions: int
    deletions: int
    parents: tuple[str, ...] = ()

    @property
    def short_sha(self) -> str:
        return self.sha[:8]


class EverySide(Protocol):
    """The sides of all commits, where a history holds those of one repository of several."""

    def of(self, sha: str) -> Split | None: ...

    def like(self, start: str) -> Sequence[tuple[str, Split]]: ...


@dataclass(frozen=True)
class History:
    """Commits by sha, oldest first, and the side that each is on."""

    commits: Mapping[str, Commit]
    split_of: Mapping[str, Split]
    cutoff: Cutoff
    everywhere: EverySide | None = None
    """Of the other repositories too; forks take over commits of each other."""

    def side_of(self, sha: str) -> Split | None:
        """The side of a commit, of whichever repository."""
        return self.everywhere.of(sha) if self.everywhere else self.split_of.get(sha)

    def like(self, start: str) -> Sequence[tuple[str, Split]]:
        """Commits whose names begin so, with their sides."""
        if self.everywhere:
            return self.everywhere.like(start)
        return [(sha, split) for sha, split in self.split_of.items() if sha.startswith(start)]

    def on(self, split: Split) -> list[Commit]:
        return [commit for sha, commit in self.commits.items() if self.split_of[sha] == split]


def current_cutoff(repository: Mapping[str, Any], spec: float | str | None) -> Cutoff:
    """The cut-off that the snapshot on disk was made for, if it is the one now asked for.

    Raises:
        StaleDataError: It is another.
    """
    made_for = repository["cutoff"]["spec"]
    if made_for != spec:
        raise StaleDataError(
            f"The tables on disk were made for the cut-off {made_for}, and "
            f"sequence_build.cutoff is now {spec}. Run `kedro run --pipeline=git_ingest` again."
        )
    return read_cutoff(repository)


def read_history(table: RowSource, cutoff: Cutoff, validation_fraction: float) -> History:
    """Read the commits and put each on its side.

    Raises:
        TooLittleDataError: There are too few commits for three sides.
    """
    commits = read_commits(table)
    before = [commit for commit in commits if commit.committed_at <= cutoff.time]
    split_of: dict[str, Split] = {
        commit.sha: "train" if commit.committed_at <= cutoff.time else "held_out"
        for commit in commits
    }
    require_enough(len(commits), len(before), cutoff)
    chosen = choose_validation(
        np.array([commit.insertions for commit in before], np.int64),
        np.array([commit.is_merge for commit in before], np.bool_),
        validation_fraction,
    )
    split_of.update((before[number].sha, "validation") for number in chosen)
    return History({commit.sha: commit for commit in commits}, split_of, cutoff)


def read_commits(table: RowSource) -> list[Commit]:
    """Read the commits, oldest first."""
    rows = table.rows(list(Commit.__dataclass_fields__))
    return sorted(map(_commit, rows), key=lambda commit: (commit.committed_at, commit.sha))


def merged_commits(history: History) -> dict[str, list[str]]:
    """By sha of a merge on the main line, the commits that it brought, oldest first.

    The main line is what one comes to from the head by first parents. Merges beside it brought
    nothing that a merge on it does not bring.
    """
    line: list[str] = []
    commit = history.commits.get(history.cutoff.head_sha)
    while commit is not None:
        line.append(commit.sha)
        commit = history.commits.get(commit.parents[0]) if commit.parents else None
    order = {sha: number for number, sha in enumerate(history.commits)}
    seen = set(line)
    brought: dict[str, list[str]] = {}
    for sha in reversed(line):
        waiting = list(history.commits[sha].parents[1:])
        found: list[str] = []
        while waiting:
            other = waiting.pop()
            if other in history.commits and other not in seen:
                seen.add(other)
                found.append(other)
                waiting.extend(history.commits[other].parents)
        if found:
            brought[sha] = sorted(found, key=order.__getitem__)
    return brought


def choose_validation(
    insertions: npt.NDArray[np.int64], is_merge: npt.NDArray[np.bool_], fraction: float
) -> list[int]:
    """Choose the last commits that together are ``fraction`` of the history.

    A commit so large that it would take more than ``fraction`` of all inserted lines with it
    stays in training, or one import of a whole subsystem would leave nothing to learn from.

    Args:
        insertions: Lines that each commit before the cut-off inserted, oldest first.
        is_merge: Of the same shape; merges are not chosen.
        fraction: Of the commits, and of the lines.

    Returns:
        Their numbers, newest first; at least one.
    """
    usable = np.flatnonzero(~is_merge[1:]) + 1
    if not len(usable):
        usable = np.array([len(insertions) - 1])
    wanted = max(1, math.ceil(fraction * len(usable)))
    lines_left = fraction * float(insertions.sum())
    chosen: list[int] = []
    for number in usable[::-1].tolist():
        if len(chosen) == wanted:
            break
        if 0 < insertions[number] <= lines_left:
            chosen.append(number)
            lines_left -= float(insertions[number])
    smallest = min(usable.tolist(), key=lambda n: (insertions[n] == 0, insertions[n], n))
    return chosen or [smallest]


def require_enough(n_commits: int, n_before: int, cutoff: Cutoff) -> None:
    """Raise TooLittleDataError where there are too few commits for three sides."""
    n_after = n_commits - n_before
    needed_before = _FEWEST_COMMITS - 1
    if n_before >= needed_before and (n_after or not cutoff.holds_out):
        return
    raise TooLittleDataError(
        f"There are {n_commits} commits, {n_before} of them up to the cut-off at "
        f"{cutoff.time:%Y-%m-%d %H:%M} UTC. It takes {needed_before} before it, to train on and "
        "to choose a checkpoint by, and one after it, to evaluate with. Commit more work, fetch "
        "the whole history (git fetch --unshallow), or move sequence_build.cutoff."
    )


def _commit(row: Mapping[str, Any]) -> Commit:
    times = {name: as_utc(row[name]) for name in ("authored_at", "committed_at")}
    return Commit(**{**row, **times, "parents": tuple(row["parents"])})
