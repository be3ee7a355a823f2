"""Commits of a repository in chronological order, each assigned to a split."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from the_block_llm.datasets.cutoff import Cutoff, as_utc, read_cutoff, stored_repository
from the_block_llm.datasets.repository_rows import RowSource
from the_block_llm.errors import StaleDataError, TooLittleDataError
from the_block_llm.schemas import SPLITS, Split

_MIN_COMMITS: Final = 3  # one each for training, validation and evaluation


@dataclass(frozen=True, slots=True)
class Commit:
    """A row of the table ``commits``."""

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
    files_changed: int
    insertions: int
    deletions: int
    parents: tuple[str, ...] = ()

    @property
    def short_sha(self) -> str:
        return self.sha[:8]


class SplitLookup(Protocol):
    """Splits of the commits of all repositories."""

    def get(self, sha: str) -> Split | None: ...

    def find_by_prefix(self, sha_prefix: str) -> Sequence[tuple[str, Split]]: ...


@dataclass(frozen=True)
class History:
    """Commits of one repository by sha, oldest first, and the split of each."""

    commits: Mapping[str, Commit]
    split_by_sha: Mapping[str, Split]
    cutoff: Cutoff
    splits_of_all_repositories: SplitLookup | None = None
    """Splits across repositories, if there are several: forks share commits."""

    def find_split(self, sha: str) -> Split | None:
        """Return the split of a commit of any repository, or ``None`` if it is unknown."""
        return (
            self.splits_of_all_repositories.get(sha)
            if self.splits_of_all_repositories
            else self.split_by_sha.get(sha)
        )

    def find_by_prefix(self, sha_prefix: str) -> Sequence[tuple[str, Split]]:
        """Return the commits whose sha starts with ``sha_prefix``, with their splits."""
        if self.splits_of_all_repositories:
            return self.splits_of_all_repositories.find_by_prefix(sha_prefix)
        return [
            (sha, split) for sha, split in self.split_by_sha.items() if sha.startswith(sha_prefix)
        ]

    @cached_property
    def evaluation_commits(self) -> frozenset[str]:
        """Commits whose content must not be trained on, although the training snapshot may have it.

        These are the ones of validation, and held-out ones that the commit at the cutoff descends
        from: commit times can be out of order.
        """
        found = {sha for sha, split in self.split_by_sha.items() if split == "validation"}
        stack, seen = [self.cutoff.sha], set[str]()
        while stack:
            commit = self.commits.get(stack.pop() or "")
            if commit is not None and commit.sha not in seen:
                seen.add(commit.sha)
                stack.extend(commit.parents)
        found.update(sha for sha in seen if self.split_by_sha[sha] == "held_out")
        return frozenset(found)

    @cached_property
    def evaluation_descendants(self) -> frozenset[str]:
        """The evaluation commits, and all that were made on top of them up to the cutoff."""
        children: dict[str, list[str]] = defaultdict(list)
        for commit in self.commits.values():
            if commit.committed_at <= self.cutoff.time:
                for parent in commit.parents:
                    children[parent].append(commit.sha)
        found, stack = set[str](), list(self.evaluation_commits)
        while stack:
            sha = stack.pop()
            if sha not in found:
                found.add(sha)
                stack.extend(children.get(sha, ()))
        return frozenset(found)

    def document_split(self, commit: Commit, merged: Sequence[Commit] = ()) -> Split:
        """Return the split of the documents about a commit: the latest of what it is about.

        Args:
            commit: Any commit; one that reverts another is about that one as well.
            merged: The commits that it merged, if it is a merge and they are known.
        """
        splits = {self.split_by_sha[one.sha] for one in (commit, *merged)}
        splits |= {
            split
            for one in (commit, *merged)
            if one.reverts and (split := self.find_split(one.reverts))
        }
        unknown = commit.is_merge and not merged
        if unknown and not self.evaluation_descendants.isdisjoint(commit.parents[1:]):
            splits.add("validation")
        return max(splits, key=SPLITS.index)

    def commits_in(self, split: Split) -> list[Commit]:
        return [commit for sha, commit in self.commits.items() if self.split_by_sha[sha] == split]


def require_cutoff(repository: Mapping[str, Any], spec: float | str | None) -> Cutoff:
    """Return the cutoff of the ingested tables after checking that it is the requested one.

    Raises:
        StaleDataError: The tables were made for another cutoff.
    """
    with stored_repository():
        made_for = repository["cutoff"]["spec"]
    if made_for != spec:
        raise StaleDataError(
            f"The tables on disk were made for the cutoff {made_for}, but sequence_build.cutoff "
            f"is {spec}. Run `kedro run --pipeline=git_ingest` again."
        )
    return read_cutoff(repository)


def read_history(table: RowSource, cutoff: Cutoff, validation_fraction: float) -> History:
    """Read the commits of one repository and assign each to a split.

    Raises:
        TooLittleDataError: There are too few commits for three splits.
    """
    commits = read_commits(table)
    before = [commit for commit in commits if commit.committed_at <= cutoff.time]
    split_by_sha: dict[str, Split] = {
        commit.sha: "train" if commit.committed_at <= cutoff.time else "held_out"
        for commit in commits
    }
    require_enough_commits(len(commits), len(before), cutoff)
    selected = select_validation_commits(
        np.array([(commit.insertions, commit.files_changed) for commit in before], np.int64),
        np.array([commit.is_merge for commit in before], np.bool_),
        validation_fraction,
    )
    split_by_sha.update((before[index].sha, "validation") for index in selected)
    return History({commit.sha: commit for commit in commits}, split_by_sha, cutoff)


def read_commits(table: RowSource) -> list[Commit]:
    """Read the commits, oldest first."""
    rows = table.rows(list(Commit.__dataclass_fields__))
    return sorted(map(_commit, rows), key=lambda commit: (commit.committed_at, commit.sha))


def merged_commits(history: History) -> dict[str, list[str]]:
    """Return for each merge on the main line the commits that it merged, oldest first.

    The main line is the first-parent history of the head. Merges off the main line are left out:
    what they merged reached the main line through a later merge.
    """
    main_line: list[str] = []
    commit = history.commits.get(history.cutoff.head_sha)
    while commit is not None:
        main_line.append(commit.sha)
        commit = history.commits.get(commit.parents[0]) if commit.parents else None
    order = {sha: index for index, sha in enumerate(history.commits)}
    seen = set(main_line)
    merged: dict[str, list[str]] = {}
    for sha in reversed(main_line):
        stack = list(history.commits[sha].parents[1:])
        found: list[str] = []
        while stack:
            other = stack.pop()
            if other in history.commits and other not in seen:
                seen.add(other)
                found.append(other)
                stack.extend(history.commits[other].parents)
        if found:
            merged[sha] = sorted(found, key=order.__getitem__)
    return merged


def select_validation_commits(
    sizes: npt.NDArray[np.int64], is_merge: npt.NDArray[np.bool_], fraction: float
) -> list[int]:
    """Select the most recent commits that make up ``fraction`` of the history.

    A commit that would take more than ``fraction`` of all inserted lines, or of all changes to
    files, stays in training: otherwise one import of a whole subsystem, or one move of all its
    files, would leave little to train on.

    Args:
        sizes: Inserted lines and changed files of each commit before the cutoff, oldest first,
            shape ``(n, 2)``.
        is_merge: Shape ``(n,)``; merges are not selected.
        fraction: Maximum fraction of the commits, of their inserted lines, and of their files.

    Returns:
        Indices of the selected commits, newest first; at least one.
    """
    eligible = np.flatnonzero(~is_merge[1:]) + 1
    if not len(eligible):
        eligible = np.array([len(sizes) - 1])
    n_wanted = max(1, math.ceil(fraction * len(eligible)))
    left = np.maximum(fraction * sizes.sum(axis=0), 1)  # a short history has one-file commits
    selected: list[int] = []
    for index in eligible[::-1].tolist():
        if len(selected) == n_wanted:
            break
        if sizes[index, 0] > 0 and np.all(sizes[index] <= left):
            selected.append(index)
            left = left - sizes[index]
    smallest = min(eligible.tolist(), key=lambda n: (sizes[n, 0] == 0, sizes[n, 0], n))
    return selected or [smallest]


def require_enough_commits(n_commits: int, n_before: int, cutoff: Cutoff) -> None:
    """Raise TooLittleDataError if there are too few commits for three splits."""
    n_after = n_commits - n_before
    min_before = _MIN_COMMITS - 1
    if n_before >= min_before and (n_after or not cutoff.holds_out):
        return
    raise TooLittleDataError(
        f"There are {n_commits} commits, {n_before} of them up to the cutoff at "
        f"{cutoff.time:%Y-%m-%d %H:%M} UTC. At least {min_before} are needed before it, for "
        "training and validation, and one after it, for evaluation. Commit more work, fetch the "
        "full history (git fetch --unshallow), or move sequence_build.cutoff."
    )


def _commit(row: Mapping[str, Any]) -> Commit:
    times = {name: as_utc(row[name]) for name in ("authored_at", "committed_at")}
    return Commit(**{**row, **times, "parents": tuple(row["parents"])})
