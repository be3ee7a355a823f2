"""Repository history split at the cut-off, as the tasks use it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any, Final

from the_block_llm.datasets.cutoff import Cutoff, as_utc
from the_block_llm.datasets.parquet_table import ParquetTable

_NEVER_DAYS: Final = 10_000.0


@dataclass(frozen=True)
class HeldOutChange:
    """A change to one file, committed after the cut-off and kept by the filters."""

    path: str
    old_path: str | None
    status: str
    patch: str | None


@dataclass(frozen=True)
class HeldOutCommit:
    """A non-merge commit after the cut-off."""

    sha: str
    committed_at: datetime
    subject: str
    informative: bool
    changes: tuple[HeldOutChange, ...]


@dataclass(frozen=True)
class HistorySplit:
    """The repository at the cut-off and the commits after it."""

    project: str
    cutoff: datetime
    held_out_commits: Sequence[HeldOutCommit]
    """Oldest first."""
    change_counts: Mapping[str, int]
    """Number of commits up to the cut-off that changed a file, by path."""
    last_changed_at: Mapping[str, datetime]
    """Time of the last change up to the cut-off, by path."""
    paths_at_cutoff: frozenset[str]
    """Paths of the kept files at the cut-off."""
    documentation_at_cutoff: Mapping[str, str]
    """Texts of documentation at the cut-off, by path."""
    documentation_at_head: Mapping[str, str]
    """Texts of documentation at the end of the history, by path."""

    @cached_property
    def files_per_folder(self) -> Counter[str]:
        """Number of files directly in each folder at the cut-off."""
        return Counter(str(PurePosixPath(path).parent) for path in sorted(self.paths_at_cutoff))

    @cached_property
    def paths_by_suffix(self) -> dict[str, list[str]]:
        """Sorted paths at the cut-off, by file suffix."""
        by_suffix: dict[str, list[str]] = {}
        for path in sorted(self.paths_at_cutoff):
            by_suffix.setdefault(PurePosixPath(path).suffix, []).append(path)
        return by_suffix

    def days_since_change(self, path: str) -> float:
        """Return the days from the last change of ``path`` to the cut-off.

        A file that was never changed gets a large constant.
        """
        last = self.last_changed_at.get(path)
        return _NEVER_DAYS if last is None else (self.cutoff - last).total_seconds() / 86_400


def read_history_split(
    cutoff: Cutoff,
    commits: ParquetTable,
    file_changes: ParquetTable,
    snapshot_files: ParquetTable,
) -> HistorySplit:
    """Read the history before and after the cut-off.

    Args:
        cutoff: The commit after which everything is held out.
        commits: Table of the schema ``COMMITS``.
        file_changes: Table of the schema ``FILE_CHANGES``, with the rows of a commit adjacent.
        snapshot_files: Table of the schema ``SNAPSHOT_FILES``, with the trees of cut-off and head.
    """
    columns = ["repo", "sha", "committed_at", "subject", "informative", "is_merge"]
    commit_rows = {row["sha"]: row for row in commits.rows(columns)}
    change_counts: Counter[str] = Counter()
    last_changed_at: dict[str, datetime] = {}
    held_out_commits: list[HeldOutCommit] = []
    changes = file_changes.rows(["sha", "path", "old_path", "status", "patch", "kept"])
    for sha, group in groupby(changes, key=lambda row: row["sha"]):
        commit = commit_rows.get(sha)
        if commit is None or commit["is_merge"]:
            continue
        committed_at = as_utc(commit["committed_at"])
        if cutoff.includes(committed_at):
            for change in group:
                path = change["path"]
                change_counts[path] += 1
                last_changed_at[path] = max(committed_at, last_changed_at.get(path, committed_at))
        else:
            held_out_commits.append(_held_out_commit(commit, committed_at, list(group)))
    trees = _read_trees(cutoff, snapshot_files)
    return HistorySplit(
        project=project_name(row["repo"] for row in commit_rows.values()),
        cutoff=cutoff.time,
        held_out_commits=sorted(
            held_out_commits, key=lambda commit: (commit.committed_at, commit.sha)
        ),
        change_counts=change_counts,
        last_changed_at=last_changed_at,
        paths_at_cutoff=trees.paths_at_cutoff,
        documentation_at_cutoff=trees.documentation_at_cutoff,
        documentation_at_head=trees.documentation_at_head,
    )


def project_name(repos: Any) -> str:
    """Return the repository's name, from the first of its paths or URLs."""
    name = PurePosixPath(next(iter(repos), "this project")).name
    return name.removesuffix(".git") or "this project"


def is_documentation(path: str) -> bool:
    """Return True for a file of a documentation format."""
    return PurePosixPath(path).suffix.lower() in {".md", ".markdown", ".rst", ".adoc"}


@dataclass(frozen=True)
class _Trees:
    paths_at_cutoff: frozenset[str]
    documentation_at_cutoff: Mapping[str, str]
    documentation_at_head: Mapping[str, str]


def _read_trees(cutoff: Cutoff, snapshot_files: ParquetTable) -> _Trees:
    paths_at_cutoff: set[str] = set()
    documentation_at_cutoff: dict[str, str] = {}
    documentation_at_head: dict[str, str] = {}
    for row in snapshot_files.rows(["sha", "path", "text", "kept"]):
        if not row["kept"] or not row["text"]:
            continue
        if row["sha"] == cutoff.sha:
            paths_at_cutoff.add(row["path"])
        if is_documentation(row["path"]):
            # Without held-out commits, cut-off and head are the same tree.
            if row["sha"] == cutoff.sha:
                documentation_at_cutoff[row["path"]] = row["text"]
            if row["sha"] == cutoff.head_sha:
                documentation_at_head[row["path"]] = row["text"]
    return _Trees(frozenset(paths_at_cutoff), documentation_at_cutoff, documentation_at_head)


def _held_out_commit(
    commit: Mapping[str, Any], committed_at: datetime, changes: Sequence[Mapping[str, Any]]
) -> HeldOutCommit:
    return HeldOutCommit(
        sha=commit["sha"],
        committed_at=committed_at,
        subject=commit["subject"],
        informative=commit["informative"],
        changes=tuple(
            HeldOutChange(change["path"], change["old_path"], change["status"], change["patch"])
            for change in changes
            if change["kept"]
        ),
    )
