"""The history as this stage needs it: commits in order, each on its side of the cut-off."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from the_block_llm.datasets.by_repository import RowSource
from the_block_llm.datasets.cutoff import Cutoff, read_cutoff, utc
from the_block_llm.errors import StaleDataError, TooLittleDataError
from the_block_llm.schemas import Split

_FEWEST_COMMITS: Final = 3  # one each to train on, to choose a checkpoint by, to evaluate with


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class History:
    """Commits by sha, oldest first, and the side that each is on."""

    commits: Mapping[str, Commit]
    split_of: Mapping[str, Split]
    cutoff: Cutoff

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
    columns = list(Commit.__dataclass_fields__)
    commits = sorted(
        (_commit(row) for row in table.rows(columns)), key=lambda c: (c.committed_at, c.sha)
    )
    before = [commit for commit in commits if commit.committed_at <= cutoff.time]
    split_of: dict[str, Split] = {
        commit.sha: "train" if commit.committed_at <= cutoff.time else "held_out"
        for commit in commits
    }
    _require_enough(commits, before, cutoff)
    split_of.update((sha, "validation") for sha in choose_validation(before, validation_fraction))
    return History({commit.sha: commit for commit in commits}, split_of, cutoff)


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


def choose_validation(commits: Sequence[Commit], fraction: float) -> list[str]:
    """Choose the last commits that together are ``fraction`` of the history.

    A commit so large that it would take more than ``fraction`` of all inserted lines with it
    stays in training, or one import of a whole subsystem would leave nothing to learn from.

    Args:
        commits: Those before the cut-off, oldest first.
        fraction: Of the commits, and of the lines.

    Returns:
        Their shas, newest first; at least one.
    """
    usable = [commit for commit in commits[1:] if not commit.is_merge] or list(commits[-1:])
    wanted = max(1, math.ceil(fraction * len(usable)))
    lines_left = fraction * sum(commit.insertions for commit in commits)
    chosen: list[str] = []
    for commit in reversed(usable):
        if len(chosen) == wanted:
            break
        if 0 < commit.insertions <= lines_left:
            chosen.append(commit.sha)
            lines_left -= commit.insertions
    return chosen or [min(usable, key=lambda c: (c.insertions == 0, c.insertions, c.sha)).sha]


def _require_enough(commits: Sequence[Commit], before: Sequence[Commit], cutoff: Cutoff) -> None:
    n_after = len(commits) - len(before)
    needed_before = _FEWEST_COMMITS - 1
    if len(before) >= needed_before and (n_after or not cutoff.holds_out):
        return
    raise TooLittleDataError(
        f"There are {len(commits)} commits, {len(before)} of them up to the cut-off at "
        f"{cutoff.time:%Y-%m-%d %H:%M} UTC. It takes {needed_before} before it, to train on and "
        "to choose a checkpoint by, and one after it, to evaluate with. Commit more work, fetch "
        "the whole history (git fetch --unshallow), or move sequence_build.cutoff."
    )


def _commit(row: Mapping[str, Any]) -> Commit:
    times = {name: utc(row[name]) for name in ("authored_at", "committed_at")}
    return Commit(**{**row, **times, "parents": tuple(row["parents"])})
