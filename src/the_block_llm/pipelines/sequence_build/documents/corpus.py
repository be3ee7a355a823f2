"""From the tables of git_ingest to drafts, each on its side of the cut-off."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import chain, groupby
from typing import Any, Final

from the_block_llm.datasets.repository_rows import RowSource
from the_block_llm.pipelines.sequence_build.code.docstrings import Description, describe
from the_block_llm.pipelines.sequence_build.code.imports import (
    dependencies,
    reverse,
    used_first,
)
from the_block_llm.pipelines.sequence_build.code.outline import declarations
from the_block_llm.pipelines.sequence_build.code.source_file import SnapshotFile
from the_block_llm.pipelines.sequence_build.document import Draft, Dropped
from the_block_llm.pipelines.sequence_build.documents.chat_files import (
    dependency_chats,
    description_chat,
    first_sentence,
    folder_chats,
    newly_described,
    outline_chat,
    where_chat,
)
from the_block_llm.pipelines.sequence_build.documents.chat_history import (
    TrainedHistory,
    change_chats,
    history_chats,
    together_chats,
)
from the_block_llm.pipelines.sequence_build.documents.commits import (
    FileChange,
    commit_document,
    merge_document,
)
from the_block_llm.pipelines.sequence_build.documents.completion_pairs import (
    commit_associations,
    folder_associations,
)
from the_block_llm.pipelines.sequence_build.documents.files import held_out_file, training_file
from the_block_llm.pipelines.sequence_build.documents.filters import (
    Untaught,
    why_not_taught,
    why_path_not_taught,
)
from the_block_llm.pipelines.sequence_build.history.change_index import Changes, read_changes
from the_block_llm.pipelines.sequence_build.history.commits import Commit, History, merged_commits
from the_block_llm.pipelines.sequence_build.history.line_normalization import lines_of
from the_block_llm.pipelines.sequence_build.history.messages import message_of
from the_block_llm.schemas import Split

_PATHS_LOOKED_UP: Final = 20  # of a commit, when looking for earlier changes to the same files
_LATEST_FIRST: Final[tuple[Split, ...]] = ("held_out", "validation", "train")
_DEFINED: Final = re.compile(r"\b(?:def|class|fn|struct|enum|trait|mod|type)\s+(\w+)")


@dataclass(frozen=True)
class Corpus:
    """The repository's tables and the choices that turn them into drafts."""

    project: str
    history: History
    file_changes: RowSource
    snapshot_files: RowSource
    with_chats: bool
    incremental_context_sequences: int
    seed: int

    def drafts(self) -> Iterator[Draft | Dropped]:
        """Render everything, in an order that only depends on the tables."""
        for draft in chain(self._files(), self._commits(), self._merges()):
            if isinstance(draft, Draft) and not draft.has_target:
                yield Dropped("nothing_new", draft.source)
            else:
                yield draft

    def _files(self) -> Iterator[Draft | Dropped]:
        cutoff = self.history.cutoff
        for path, reason in sorted(self._listed.untaught.items()):
            yield Dropped(reason, path)
        for file in used_first(self._tree(cutoff.sha), self._surveyed.depends_on):
            written_at = self._changes.written_before.get(file.path, cutoff.time)
            draft = training_file(file, written_at, self._changes.held_back)
            yield draft
            if self.with_chats:
                yield from self._chats_about(file, draft.split, written_at)
        if self.with_chats:
            yield from folder_chats(self._surveyed.purposes, cutoff.time, self.seed)
            learned = (f for f in self._tree(cutoff.sha) if f.path in self._surveyed.purposes)
            yield from folder_associations(learned, cutoff.time, self.project, self.seed)
        if not cutoff.holds_out:
            return
        for file in self._tree(cutoff.head_sha):
            if file.path in self._changes.written_after:
                written_at = self._changes.written_after[file.path]
                before = self._texts_at_cutoff.get(file.path)
                yield held_out_file(file, written_at, before)
                if self.with_chats:
                    yield from self._new_chats_about(file, written_at, before)

    def _chats_about(self, file: SnapshotFile, split: Split, at: datetime) -> Iterator[Draft]:
        held_back = self._changes.held_back.added.get(file.path, frozenset())
        described = describe(file.text, file.language)
        for description in described:
            is_new = not held_back.isdisjoint(lines_of(description.text))
            side: Split = "validation" if is_new else split
            yield description_chat(description, file.path, side, at, self.seed)
            # Private names are many, and nobody asks where they are.
            is_known = description.of == "definition" and not description.name.startswith("_")
            if is_known and self._surveyed.definitions[description.name] == 1:
                yield where_chat(description, file.path, side, at, self.seed)
        new_names = frozenset(_DEFINED.findall("\n".join(held_back)))
        yield from outline_chat(
            file.path,
            [d for d in declarations(file.text, file.language) if _last(d.name) not in new_names],
            {d.name: d.text for d in described if held_back.isdisjoint(lines_of(d.text))},
            split,
            at,
            self.seed,
        )
        yield from dependency_chats(
            file.path,
            self._surveyed.depends_on.get(file.path, ()),
            self._surveyed.used_by.get(file.path, ()),
            split,
            at,
            self.seed,
        )

    def _new_chats_about(
        self, file: SnapshotFile, at: datetime, before: str | None
    ) -> Iterator[Draft]:
        known = {description.text for description in describe(before or "", file.language)}
        for description in newly_described(describe(file.text, file.language), known):
            yield description_chat(description, file.path, "held_out", at, self.seed)

    def _commits(self) -> Iterator[Draft | Dropped]:
        whole = self._shown_whole
        columns = ["sha", "path", "old_path", "status", "patch", "kept"]
        rows = self.file_changes.rows(columns)
        for sha, group in groupby(rows, key=lambda row: row["sha"]):
            changes = [
                FileChange(row["path"], row["old_path"], row["status"], row["patch"])
                for row in group
                if row["kept"] and self._is_taught(row["path"])
            ]
            commit = self.history.commits.get(sha)
            if commit is None or commit.is_merge:
                continue
            split = self.history.split_of[sha]
            yield commit_document(commit, split, changes, whole[split], self._earlier(commit))
            if self.with_chats:
                told = sorted(changes, key=lambda change: (-len(change.patch or ""), change.path))
                yield from change_chats(commit, split, [c.path for c in told], self.seed)
                if split == "train":
                    yield from commit_associations(
                        commit, changes, whole["train"], self.project, self.seed
                    )
        if self.with_chats:
            trained = TrainedHistory(
                self._changes.paths_of,
                self.history.on("train"),
                whole["train"],
                self.history.cutoff.time,
                self.seed,
            )
            yield from together_chats(trained)
            yield from history_chats(trained)

    def _merges(self) -> Iterator[Draft | Dropped]:
        brought_by = merged_commits(self.history)
        for merge in self.history.commits.values():
            if not merge.is_merge:
                continue
            brought = [self.history.commits[sha] for sha in brought_by.get(merge.sha, ())]
            # Its words are about what it brought, so it belongs where the latest of that is.
            sides = {self.history.split_of[commit.sha] for commit in (merge, *brought)}
            split = next(side for side in _LATEST_FIRST if side in sides)
            times = Counter(
                path
                for commit in brought
                for path in self._changes.paths_of.get(commit.sha, ())
                if self._is_taught(path)
            )
            paths = sorted(times, key=lambda path: (-times[path], path))
            document = merge_document(merge, split, brought, paths)
            yield document
            if self.with_chats and isinstance(document, Draft):
                yield from change_chats(merge, split, paths, self.seed)

    def _is_taught(self, path: str) -> bool:
        return why_path_not_taught(path) is None and path not in self._listed.untaught

    def _earlier(self, commit: Commit) -> Sequence[Commit]:
        wanted = self.incremental_context_sequences
        if not wanted:
            return ()
        changes, order = self._changes, self._order
        at = order[commit.sha]
        before = {
            order[sha]
            for path in changes.paths_of.get(commit.sha, ())[:_PATHS_LOOKED_UP]
            for sha in changes.commits_of[path]
            if order[sha] < at and message_of(self.history.commits[sha])
        }
        by_order = self._by_order
        return [by_order[number] for number in sorted(before)[-wanted:]]

    def _tree(self, sha: str | None) -> Iterator[SnapshotFile]:
        """The files of a snapshot that are worth a document."""
        untaught = self._listed.untaught
        for row in self._kept_files():
            if row["sha"] == sha and row["path"] not in untaught:
                yield SnapshotFile(row["path"], row["language"], row["text"])

    def _kept_files(self) -> Iterator[dict[str, Any]]:
        columns = ["sha", "path", "language", "text", "kept"]
        return (row for row in self.snapshot_files.rows(columns) if row["kept"] and row["text"])

    @cached_property
    def _listed(self) -> "_Listed":
        """Which paths there are in each snapshot, and which of them make no document."""
        reasons: dict[str, Untaught] = {}
        paths: dict[str, set[str]] = defaultdict(set)
        for row in self._kept_files():
            paths[row["sha"]].add(row["path"])
            if reason := why_not_taught(row["path"], row["text"]):
                reasons[row["path"]] = reason
        # A path that makes a document in one snapshot and none in the other makes none.
        taught = {sha: frozenset(of_tree - reasons.keys()) for sha, of_tree in paths.items()}
        return _Listed(reasons, taught)

    @cached_property
    def _surveyed(self) -> "_Surveyed":
        """What all files of the training snapshot say of themselves, in one pass over them."""
        held_back = self._changes.held_back
        purposes: dict[str, str] = {}
        definitions: Counter[str] = Counter()

        def seen() -> Iterator[SnapshotFile]:
            for file in self._tree(self.history.cutoff.sha):
                described = describe(file.text, file.language)
                definitions.update(d.name for d in described if d.of == "definition")
                if file.path not in held_back.created:
                    added = held_back.added.get(file.path, frozenset())
                    purposes[file.path] = _purpose(described, added)
                yield file

        depends_on = dependencies(seen())
        return _Surveyed(purposes, definitions, depends_on, reverse(depends_on))

    @cached_property
    def _by_order(self) -> list[Commit]:
        return list(self.history.commits.values())

    @cached_property
    def _order(self) -> Mapping[str, int]:
        return {commit.sha: number for number, commit in enumerate(self._by_order)}

    @cached_property
    def _shown_whole(self) -> Mapping[Split, frozenset[str]]:
        cutoff, taught = self.history.cutoff, self._listed.taught
        at_cutoff = taught.get(cutoff.sha or "", frozenset())
        after = taught.get(cutoff.head_sha, frozenset()) & self._changes.written_after.keys()
        return {"train": at_cutoff, "validation": at_cutoff, "held_out": after}

    @cached_property
    def _texts_at_cutoff(self) -> Mapping[str, str]:
        """Texts at the cut-off of files that were changed after it, by their path now."""
        later = {
            self._changes.path_before.get(path, path): path for path in self._changes.written_after
        }
        return {
            later[file.path]: file.text
            for file in self._tree(self.history.cutoff.sha)
            if file.path in later
        }

    @cached_property
    def _changes(self) -> Changes:
        return read_changes(self.file_changes, self.history)


@dataclass(frozen=True)
class _Listed:
    """The paths of the snapshots."""

    untaught: Mapping[str, Untaught]
    """Why a file makes no document, by path."""
    taught: Mapping[str, frozenset[str]]
    """Paths of files that make one, by sha of the snapshot."""


@dataclass(frozen=True)
class _Surveyed:
    """What the files of the training snapshot say of themselves."""

    purposes: Mapping[str, str]
    """Of every file that is learned, in a few words what it is for, where it says so."""
    definitions: Mapping[str, int]
    """How often each name is defined, of those that say what they are for."""
    depends_on: Mapping[str, list[str]]
    used_by: Mapping[str, list[str]]


def _purpose(described: Sequence[Description], added: Set[str]) -> str:
    """What a file is for, in words that no held-back commit brought."""
    return next(
        (
            first_sentence(d.text) if d.of == "file" else d.name
            for d in described
            if d.of in {"file", "section"} and added.isdisjoint(lines_of(f"{d.name}\n{d.text}"))
        ),
        "",
    )


def _last(name: str) -> str:
    return re.split(r"\.|::", name)[-1]
