"""The repository before the cut-off and what happened after it."""

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
class LaterChange:
    """A kept change to one file, committed after the cut-off."""

    path: str
    old_path: str | None
    status: str
    patch: str | None


@dataclass(frozen=True)
class LaterCommit:
    """A commit after the cut-off; merges are not among them."""

    sha: str
    committed_at: datetime
    subject: str
    informative: bool
    changes: tuple[LaterChange, ...]


@dataclass(frozen=True)
class TwoTimes:
    """Both sides of the cut-off, as far as tasks need them."""

    project: str
    cutoff: datetime
    later: Sequence[LaterCommit]
    """Oldest first."""
    times_changed: Mapping[str, int]
    """By path, commits up to the cut-off that changed it."""
    last_changed: Mapping[str, datetime]
    """By path, the last of them."""
    paths_before: frozenset[str]
    """Kept files at the cut-off."""
    documents_before: Mapping[str, str]
    """Texts of documentation at the cut-off, by path."""
    documents_after: Mapping[str, str]
    """Texts of documentation at the end of the history, by path."""

    @cached_property
    def folders_before(self) -> Counter[str]:
        """Folders at the cut-off with the number of files directly in them."""
        return Counter(str(PurePosixPath(path).parent) for path in sorted(self.paths_before))

    @cached_property
    def paths_by_suffix(self) -> dict[str, list[str]]:
        """Files at the cut-off by the ending of their names, sorted."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.paths_before):
            found.setdefault(PurePosixPath(path).suffix, []).append(path)
        return found

    def days_idle(self, path: str) -> float:
        """Days from the last change of ``path`` to the cut-off; many where there was none."""
        last = self.last_changed.get(path)
        return _NEVER_DAYS if last is None else (self.cutoff - last).total_seconds() / 86_400


def read_two_times(
    cutoff: Cutoff,
    commits: ParquetTable,
    file_changes: ParquetTable,
    snapshot_files: ParquetTable,
) -> TwoTimes:
    """Read both sides of the cut-off.

    Args:
        cutoff: T0.
        commits: Table of the schema ``COMMITS``.
        file_changes: ``FILE_CHANGES``, the rows of a commit together.
        snapshot_files: ``SNAPSHOT_FILES``, with the trees of cut-off and end.
    """
    columns = ["repo", "sha", "committed_at", "subject", "informative", "is_merge"]
    rows = {row["sha"]: row for row in commits.rows(columns)}
    times_changed: Counter[str] = Counter()
    last_changed: dict[str, datetime] = {}
    later: list[LaterCommit] = []
    changes = file_changes.rows(["sha", "path", "old_path", "status", "patch", "kept"])
    for sha, group in groupby(changes, key=lambda row: row["sha"]):
        commit = rows.get(sha)
        if commit is None or commit["is_merge"]:
            continue
        at = as_utc(commit["committed_at"])
        of_commit = list(group)
        if cutoff.is_before(at):
            for change in of_commit:
                times_changed[change["path"]] += 1
                last_changed[change["path"]] = max(at, last_changed.get(change["path"], at))
        else:
            later.append(_later_commit(commit, at, of_commit))
    trees = _read_trees(cutoff, snapshot_files)
    return TwoTimes(
        project=project_name(row["repo"] for row in rows.values()),
        cutoff=cutoff.time,
        later=sorted(later, key=lambda commit: (commit.committed_at, commit.sha)),
        times_changed=times_changed,
        last_changed=last_changed,
        paths_before=trees.paths_before,
        documents_before=trees.documents_before,
        documents_after=trees.documents_after,
    )


def project_name(repos: Any) -> str:
    """The repository's own name, out of a path or URL."""
    name = PurePosixPath(next(iter(repos), "this project")).name
    return name.removesuffix(".git") or "this project"


def is_documentation(path: str) -> bool:
    """True for prose that people write about a project."""
    return PurePosixPath(path).suffix.lower() in {".md", ".markdown", ".rst", ".adoc"}


@dataclass(frozen=True)
class _Trees:
    paths_before: frozenset[str]
    documents_before: Mapping[str, str]
    documents_after: Mapping[str, str]


def _read_trees(cutoff: Cutoff, snapshot_files: ParquetTable) -> _Trees:
    before: set[str] = set()
    documents: dict[str, dict[str, str]] = {"before": {}, "after": {}}
    for row in snapshot_files.rows(["sha", "path", "text", "kept"]):
        if not row["kept"] or not row["text"]:
            continue
        if row["sha"] == cutoff.sha:
            before.add(row["path"])
        if is_documentation(row["path"]):
            # Where nothing was held out both times are one tree.
            if row["sha"] == cutoff.sha:
                documents["before"][row["path"]] = row["text"]
            if row["sha"] == cutoff.head_sha:
                documents["after"][row["path"]] = row["text"]
    return _Trees(frozenset(before), documents["before"], documents["after"])


def _later_commit(
    commit: Mapping[str, Any], at: datetime, changes: Sequence[Mapping[str, Any]]
) -> LaterCommit:
    return LaterCommit(
        sha=commit["sha"],
        committed_at=at,
        subject=commit["subject"],
        informative=commit["informative"],
        changes=tuple(
            LaterChange(change["path"], change["old_path"], change["status"], change["patch"])
            for change in changes
            if change["kept"]
        ),
    )
