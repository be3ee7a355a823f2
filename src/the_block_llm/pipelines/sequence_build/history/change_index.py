"""Index of file changes: which commits changed a path, when, and what evaluation commits added."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from the_block_llm.datasets.repository_rows import RowSource
from the_block_llm.pipelines.sequence_build.history.commits import History
from the_block_llm.pipelines.sequence_build.history.evaluation_edits import (
    EditFollower,
    FileEdits,
)


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
    edited_files: Mapping[str, FileEdits]
    """By path, what evaluation commits did to files of the training snapshot."""


def build_change_index(table: RowSource, history: History) -> ChangeIndex:
    """Index ``file_changes`` in one pass, skipping commits that ``history`` does not contain."""
    paths_by_commit: dict[str, list[str]] = defaultdict(list)
    commits_by_path: dict[str, list[str]] = defaultdict(list)
    modified: dict[bool, dict[str, datetime]] = {False: {}, True: {}}
    path_at_cutoff: dict[str, str] = {}
    follower = EditFollower(history)
    interned: dict[str, str] = {}
    for row in table.rows(["sha", "path", "old_path", "status", "patch", "kept"]):
        commit = history.commits.get(row["sha"])
        if commit is None:
            continue
        # A path that many commits change is held as one string.
        path = interned.setdefault(row["path"], row["path"])
        split = history.split_by_sha[commit.sha]
        paths_by_commit[commit.sha].append(path)
        commits_by_path[path].append(commit.sha)
        follower.add(row, split)
        if row["status"] == "D":
            continue
        times = modified[split == "held_out"]
        times[path] = max(times.get(path, commit.committed_at), commit.committed_at)
        if split == "held_out" and row["status"] == "R":
            path_at_cutoff[path] = row["old_path"]
    return ChangeIndex(
        paths_by_commit,
        commits_by_path,
        modified[False],
        modified[True],
        path_at_cutoff,
        follower.files,
    )
