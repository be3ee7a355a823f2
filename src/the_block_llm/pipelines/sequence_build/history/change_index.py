"""Index of file changes: which commits changed a path, when, and what validation commits added."""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from the_block_llm.datasets.repository_rows import RowSource
from the_block_llm.pipelines.sequence_build.history.commits import History
from the_block_llm.pipelines.sequence_build.history.line_normalization import added_lines


@dataclass(frozen=True)
class ValidationEdits:
    """What validation commits added to the files of the training snapshot."""

    created_paths: Set[str]
    """Paths that validation commits created."""
    added_lines: Mapping[str, Set[str]]
    """Normalized lines that they added to other files, by path."""


@dataclass(frozen=True)
class ChangeIndex:
    """Changes of paths and commits, collected in one pass over ``file_changes``."""

    paths_by_commit: Mapping[str, Sequence[str]]
    """Changed paths by commit sha."""
    commits_by_path: Mapping[str, Sequence[str]]
    """Commit shas by path, in table order."""
    modified_before: Mapping[str, datetime]
    """By path, the time of the last change up to the cutoff."""
    modified_after: Mapping[str, datetime]
    """By path, the time of the last change after the cutoff."""
    path_at_cutoff: Mapping[str, str]
    """For a file renamed after the cutoff, its earlier path."""
    validation_edits: ValidationEdits


def build_change_index(table: RowSource, history: History) -> ChangeIndex:
    """Index ``file_changes`` in one pass, skipping commits that ``history`` does not contain."""
    paths_by_commit: dict[str, list[str]] = defaultdict(list)
    commits_by_path: dict[str, list[str]] = defaultdict(list)
    modified: dict[bool, dict[str, datetime]] = {False: {}, True: {}}
    path_at_cutoff: dict[str, str] = {}
    created: set[str] = set()
    added: dict[str, set[str]] = defaultdict(set)
    interned: dict[str, str] = {}
    for row in table.rows(["sha", "path", "old_path", "status", "patch"]):
        commit = history.commits.get(row["sha"])
        if commit is None:
            continue
        # A path that many commits change is held as one string.
        path = interned.setdefault(row["path"], row["path"])
        split = history.split_by_sha[commit.sha]
        paths_by_commit[commit.sha].append(path)
        commits_by_path[path].append(commit.sha)
        if row["status"] == "D":
            continue
        times = modified[split == "held_out"]
        times[path] = max(times.get(path, commit.committed_at), commit.committed_at)
        if split == "held_out" and row["status"] == "R":
            path_at_cutoff[path] = row["old_path"]
        if split == "validation":
            if row["status"] == "A":
                created.add(path)
            elif row["patch"]:
                added[path] |= added_lines(row["patch"])
    return ChangeIndex(
        paths_by_commit,
        commits_by_path,
        modified[False],
        modified[True],
        path_at_cutoff,
        ValidationEdits(created, added),
    )
