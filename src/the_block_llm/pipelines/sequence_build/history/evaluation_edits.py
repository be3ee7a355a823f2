"""What evaluation commits, those of validation and held_out, added to the training snapshot.

The snapshot at the cutoff contains lines, paths and names that validation commits added shortly
before it, and even held-out ones if commit times are out of order. They are told apart by where
they come from: an edit is followed by path through the history, renames included, and a line or
word counts as an evaluation commit's only if no training commit wrote it.
"""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

from the_block_llm.datasets.repository_rows import RowSource
from the_block_llm.pipelines.sequence_build.history.commits import History
from the_block_llm.pipelines.sequence_build.history.line_normalization import (
    normalize_line,
    significant_lines,
)
from the_block_llm.pipelines.sequence_build.history.patch_reversal import (
    revert_patches,
    split_patch,
)
from the_block_llm.schemas import Split

WORD: Final = re.compile(r"\w+")
# A shorter word, or a number, is hardly ever a fact of its own.
_FACT_WORD: Final = re.compile(r"(?=\w{3,64}\Z)\w*[^\W\d_]\w*")
_SHA: Final = re.compile(r"[0-9a-f]{7,64}")


@dataclass
class FileEdits:
    """What evaluation commits did to one file."""

    patches: list[str] = field(default_factory=list)
    """Their hunks, oldest first."""
    added_lines: set[str] = field(default_factory=set)
    """Normalized lines that they added, and that no training commit added to the file."""
    is_new: bool = False
    """An evaluation commit created the file, or changed it in a way that is not in the table."""
    is_moved: bool = False
    """An evaluation commit gave the file its path."""

    def copy(self) -> "FileEdits":
        return FileEdits(list(self.patches), set(self.added_lines), self.is_new, self.is_moved)


@dataclass(frozen=True)
class EvaluationEdits:
    """What evaluation commits added, by file and in total."""

    commits: Set[str]
    """Their shas."""
    files: Mapping[str, FileEdits]
    """By path, also of files that exist no more."""
    lines: Set[str]
    """Normalized lines that only evaluation commits wrote, to whatever file."""
    words: Set[str]
    """Words that only evaluation commits wrote: in lines, paths and messages."""

    def is_new_path(self, path: str) -> bool:
        """Return whether only evaluation commits know the path."""
        edits = self.files.get(path)
        return edits is not None and (edits.is_new or edits.is_moved)

    def is_new_file(self, path: str) -> bool:
        """Return whether the whole file is evaluation material."""
        edits = self.files.get(path)
        return edits is not None and edits.is_new

    def added_lines(self, path: str) -> Set[str]:
        """Return the normalized lines that evaluation commits added to an older file."""
        edits = self.files.get(path)
        return frozenset() if edits is None else edits.added_lines

    def text_before(self, path: str, text: str) -> str:
        """Return the text of a file without the edits of evaluation commits."""
        edits = self.files.get(path)
        if edits is None or not edits.patches:
            return text
        return revert_patches(text, edits.patches, edits.added_lines)


class EditFollower:
    """Follows the edits of evaluation commits by path, through renames and copies."""

    def __init__(self, history: History) -> None:
        self.files: dict[str, FileEdits] = {}
        """Edits by path, also of files that exist no more."""
        self._evaluation = history.evaluation_commits
        self._training_paths: set[str] = set()
        self._deleted: set[str] = set()

    def add(self, row: Mapping[str, Any], split: Split) -> None:
        """Add a row of ``file_changes``; rows must be in the order of the history."""
        path, status, is_evaluation = row["path"], row["status"], row["sha"] in self._evaluation
        if split == "held_out" and not is_evaluation:
            return
        if status == "D":
            self._deleted.add(path)
            self._training_paths.discard(path)
            return
        if status in "RC" and row["old_path"] in self.files:
            self.files[path] = self.files[row["old_path"]].copy()
        if is_evaluation:
            self._edit(self.files.setdefault(path, FileEdits()), row)
        else:
            if status == "A" and path in self._deleted:
                # What was at the path before is gone, and this file is training material.
                self.files.pop(path, None)
            if path not in self.files:
                self._training_paths.add(path)
        self._deleted.discard(path)

    def _edit(self, edits: FileEdits, row: Mapping[str, Any]) -> None:
        is_known = row["path"] in self._training_paths
        edits.is_new |= not row["kept"] or (row["status"] == "A" and not is_known)
        edits.is_moved |= row["status"] in "RC" and not is_known
        if row["patch"]:
            added, _ = split_patch(row["patch"])
            edits.added_lines |= significant_lines("\n".join(added))
            edits.patches.append(row["patch"])


def find_evaluation_edits(
    files: Mapping[str, FileEdits],
    file_changes: RowSource,
    snapshot_files: RowSource,
    history: History,
) -> EvaluationEdits:
    """Tell what only evaluation commits wrote, in one pass over the changes and the snapshot.

    Args:
        files: The edits by path, from :class:`EditFollower`; lines that a training commit added
            to the same file are removed from them.
        file_changes: The table, in the order of the history.
        snapshot_files: The table.
        history: The commits of the same repository.
    """
    material = _EvaluationMaterial(files, history)
    material.remove_training_changes(file_changes)
    material.remove_training_messages()
    material.remove_snapshot(snapshot_files)
    return EvaluationEdits(
        history.evaluation_commits, files, frozenset(material.lines), frozenset(material.words)
    )


class _EvaluationMaterial:
    """Lines and words of evaluation commits, from which those of training are removed."""

    def __init__(self, files: Mapping[str, FileEdits], history: History) -> None:
        self._files, self._history = files, history
        self.lines: set[str] = set()
        self.words: set[str] = set()
        for sha in history.evaluation_commits:
            commit = history.commits[sha]
            self.words |= _fact_words(f"{commit.subject}\n{commit.body}")
        for path, edits in files.items():
            self.lines |= edits.added_lines
            self.words |= {word for line in edits.added_lines for word in _fact_words(line)}
            if edits.is_new or edits.is_moved:
                self.words |= _fact_words(path)

    def remove_training_changes(self, table: RowSource) -> None:
        """Remove what training commits wrote, and what was there before an evaluation commit."""
        evaluation, edited = self._history.evaluation_commits, set[str]()
        for row in table.rows(["sha", "path", "old_path", "status", "patch"]):
            path, is_evaluation = row["path"], row["sha"] in evaluation
            if not is_evaluation and self._history.split_by_sha.get(row["sha"]) != "train":
                continue
            if row["status"] in "RC" and row["old_path"] in edited:
                edited.add(path)
            patch = row["patch"] or ""
            if not is_evaluation and path not in edited:
                # Nearly all patches: every line of it is older than the evaluation commits.
                self._remove(path, [line[1:] for line in patch.split("\n")], patch)
            else:
                added, earlier = split_patch(patch)
                # A line that is in the file by now may be one of an evaluation commit.
                known = earlier if path not in edited else added if not is_evaluation else []
                self._remove(path, known, "\n".join(known))
            if is_evaluation:
                edited.add(path)
            else:
                self._remove_words(f"{path} {row['old_path'] or ''}")

    def remove_training_messages(self) -> None:
        """Remove the words of the messages before the first evaluation commit.

        Those of later messages stay, since such a message may be about an evaluation commit.
        """
        history = self._history
        for sha, commit in history.commits.items():
            if sha in history.evaluation_commits:
                break
            self._remove_words(f"{commit.subject}\n{commit.body}")
        shas = {commit.short_sha for commit in history.commits_in("train")}
        self.words -= {word for word in self.words if _SHA.fullmatch(word) and word[:8] in shas}

    def remove_snapshot(self, table: RowSource) -> None:
        """Remove what the files contain that no evaluation commit edited.

        They may be older than the history in the tables.
        """
        sha = self._history.cutoff.sha
        for row in table.rows(["sha", "path", "text"]):
            if row["sha"] == sha and row["text"] and row["path"] not in self._files:
                self._remove_words(f"{row['path']} {row['text']}")
                self.lines -= significant_lines(row["text"])

    def _remove(self, path: str, lines: Sequence[str], text: str) -> None:
        self._remove_words(text)
        known = set(map(normalize_line, lines))
        self.lines.difference_update(known)
        if path in self._files:
            self._files[path].added_lines.difference_update(known)

    def _remove_words(self, text: str) -> None:
        self.words.difference_update(WORD.findall(text))


def _fact_words(text: str) -> set[str]:
    return {word for word in WORD.findall(text) if _FACT_WORD.fullmatch(word)}
