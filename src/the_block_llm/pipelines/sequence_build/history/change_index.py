"""What the changes say of paths: which commits touched them, when, and what validation added."""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from the_block_llm.datasets.repository_rows import RowSource
from the_block_llm.pipelines.sequence_build.history.commits import History
from the_block_llm.pipelines.sequence_build.history.line_normalization import added_lines


@dataclass(frozen=True)
class HeldBack:
    """What validation commits brought into the files of the training snapshot."""

    created: Mapping[str, datetime]
    """Paths that did not exist before, and when they appeared."""
    added: Mapping[str, Set[str]]
    """Telling lines by path."""


@dataclass(frozen=True)
class Changes:
    """What one pass over the changes tells of paths."""

    paths_of: Mapping[str, Sequence[str]]
    """By commit."""
    commits_of: Mapping[str, Sequence[str]]
    """By path, in the order of the table."""
    written_before: Mapping[str, datetime]
    """By path, the last time up to the cut-off that it was written."""
    written_after: Mapping[str, datetime]
    """The same, after it."""
    path_before: Mapping[str, str]
    """Of a file that was moved after the cut-off, where it stood before."""
    held_back: HeldBack


def read_changes(table: RowSource, history: History) -> Changes:
    """Go through ``file_changes`` once; commits that ``history`` lacks are passed over."""
    paths_of: dict[str, list[str]] = defaultdict(list)
    commits_of: dict[str, list[str]] = defaultdict(list)
    written: dict[bool, dict[str, datetime]] = {False: {}, True: {}}
    path_before: dict[str, str] = {}
    created: dict[str, datetime] = {}
    added: dict[str, set[str]] = defaultdict(set)
    known: dict[str, str] = {}
    for row in table.rows(["sha", "path", "old_path", "status", "patch"]):
        commit = history.commits.get(row["sha"])
        if commit is None:
            continue
        # A path that a thousand commits change is one string, not a thousand.
        path, split = known.setdefault(row["path"], row["path"]), history.split_of[commit.sha]
        paths_of[commit.sha].append(path)
        commits_of[path].append(commit.sha)
        if row["status"] == "D":
            continue
        times = written[split == "held_out"]
        times[path] = max(times.get(path, commit.committed_at), commit.committed_at)
        if split == "held_out" and row["status"] == "R":
            path_before[path] = row["old_path"]
        if split == "validation":
            if row["status"] == "A":
                created[path] = commit.committed_at
            elif row["patch"]:
                added[path] |= added_lines(row["patch"])
    return Changes(
        paths_of, commits_of, written[False], written[True], path_before, HeldBack(created, added)
    )
