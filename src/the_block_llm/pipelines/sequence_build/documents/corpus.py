"""Renders all documents of one repository from the tables of git_ingest.

What is rendered for training sees training material only: the training commits, and the files of
the snapshot without the edits of evaluation commits. Every document then passes one check,
whichever function rendered it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import chain, groupby
from typing import Any, Final

from the_block_llm.datasets.repository_rows import RowSource
from the_block_llm.pipelines.sequence_build.code.docstrings import Docstring, extract_docstrings
from the_block_llm.pipelines.sequence_build.code.imports import (
    ImportGraph,
    dependencies_first,
    reverse_graph,
)
from the_block_llm.pipelines.sequence_build.code.outline import extract_declarations
from the_block_llm.pipelines.sequence_build.code.source_file import SourceFile
from the_block_llm.pipelines.sequence_build.document import Dropped, RenderedDocument
from the_block_llm.pipelines.sequence_build.documents.chat import TEMPLATE_WORDS
from the_block_llm.pipelines.sequence_build.documents.chat_files import (
    dependency_chats,
    docstring_chat,
    first_sentence,
    folder_chats,
    location_chat,
    new_docstrings,
    outline_chat,
)
from the_block_llm.pipelines.sequence_build.documents.chat_history import (
    TrainingHistory,
    change_chats,
    co_change_chats,
    file_history_chats,
)
from the_block_llm.pipelines.sequence_build.documents.commits import (
    FileChange,
    commit_document,
    merge_document,
)
from the_block_llm.pipelines.sequence_build.documents.completion_pairs import (
    commit_completion_pairs,
    folder_completion_pairs,
)
from the_block_llm.pipelines.sequence_build.documents.exclusions import (
    ExclusionReason,
    exclusion_reason,
    path_exclusion_reason,
)
from the_block_llm.pipelines.sequence_build.documents.files import (
    held_out_file_document,
    training_file_document,
)
from the_block_llm.pipelines.sequence_build.history.change_index import (
    ChangeIndex,
    build_change_index,
)
from the_block_llm.pipelines.sequence_build.history.commits import Commit, History, merged_commits
from the_block_llm.pipelines.sequence_build.history.evaluation_edits import (
    WORD,
    EvaluationEdits,
    find_evaluation_edits,
)
from the_block_llm.pipelines.sequence_build.history.messages import commit_message
from the_block_llm.pipelines.sequence_build.history.training_check import TrainingCheck
from the_block_llm.schemas import SPLITS, Split

_MAX_LOOKUP_PATHS: Final = 20  # paths of a commit for which earlier changes are looked up


@dataclass(frozen=True)
class Corpus:
    """The documents of one repository."""

    project: str
    """Name of the project in documents."""
    history: History
    file_changes: RowSource
    snapshot_files: RowSource
    with_chats: bool
    """Whether to render chats and completion pairs."""
    incremental_context_sequences: int
    """Number of earlier changes to the same files listed at the head of a commit."""
    seed: int

    def documents(self) -> Iterator[RenderedDocument | Dropped]:
        """Render and check all documents, in an order that depends on the tables only."""
        check = TrainingCheck(self._edits, TEMPLATE_WORDS | set(WORD.findall(self.project)))
        for document in chain(
            self._file_documents(), self._commit_documents(), self._merge_documents()
        ):
            if isinstance(document, Dropped):
                yield document
            elif document.has_target:
                yield check.check(document)
            else:
                yield Dropped("nothing_new", document.source)

    def _file_documents(self) -> Iterator[RenderedDocument | Dropped]:
        cutoff = self.history.cutoff
        for path, reason in sorted(self._paths.excluded.items()):
            yield Dropped(reason, path)
        for file in dependencies_first(self._files_at(cutoff.sha), self._summary.depends_on):
            written_at = self._changes.modified_before.get(file.path, cutoff.time)
            is_new = self._edits.is_new_file(file.path)
            yield training_file_document(file, "validation" if is_new else "train", written_at)
            if self.with_chats:
                yield from self._chats_at_cutoff(file, written_at)
        if self.with_chats:
            yield from folder_chats(self._summary.purposes, cutoff.time, self.seed)
            yield from folder_completion_pairs(
                self._training_files(), cutoff.time, self.project, self.seed
            )
        if not cutoff.holds_out:
            return
        for file in self._files_at(cutoff.head_sha):
            if file.path in self._changes.modified_after:
                written_at = self._changes.modified_after[file.path]
                text_at_cutoff = self._texts_at_cutoff.get(file.path)
                yield held_out_file_document(file, written_at, text_at_cutoff)
                if self.with_chats:
                    yield from self._held_out_file_chats(file, written_at, text_at_cutoff)

    def _chats_at_cutoff(
        self, file: SourceFile, written_at: datetime
    ) -> Iterator[RenderedDocument]:
        """Render the questions about a file of the training snapshot.

        Training asks for what the file states both with and without the edits of evaluation
        commits, and validation for what it states only with them.
        """
        if self._edits.is_new_path(file.path):
            yield from self._file_chats(file, "validation", written_at)
            return
        earlier = self._without_evaluation(file)
        chats = list(self._file_chats(earlier, "train", written_at))
        if earlier is file:
            yield from chats
            return
        known = {chat.segments for chat in chats}
        current = list(self._file_chats(file, "validation", written_at))
        still_true = {chat.segments for chat in current}
        yield from (chat for chat in chats if chat.segments in still_true)
        yield from (chat for chat in current if chat.segments not in known)

    def _file_chats(
        self, file: SourceFile, split: Split, written_at: datetime
    ) -> Iterator[RenderedDocument]:
        docstrings = extract_docstrings(file.text, file.language)
        for docstring in docstrings:
            yield docstring_chat(docstring, file.path, split, written_at, self.seed)
            # Private names are numerous, and their location is of little interest.
            is_public = docstring.kind == "definition" and not docstring.name.startswith("_")
            if is_public and self._summary.definition_counts[docstring.name] == 1:
                yield location_chat(docstring, file.path, split, written_at, self.seed)
        yield from outline_chat(
            file.path,
            extract_declarations(file.text, file.language),
            {docstring.name: docstring.text for docstring in docstrings},
            split,
            written_at,
            self.seed,
        )
        yield from dependency_chats(
            file.path,
            self._summary.depends_on.get(file.path, ()),
            self._summary.used_by.get(file.path, ()),
            split,
            written_at,
            self.seed,
        )

    def _held_out_file_chats(
        self, file: SourceFile, written_at: datetime, text_at_cutoff: str | None
    ) -> Iterator[RenderedDocument]:
        earlier = extract_docstrings(text_at_cutoff or "", file.language)
        known_texts = {docstring.text for docstring in earlier}
        for docstring in new_docstrings(extract_docstrings(file.text, file.language), known_texts):
            yield docstring_chat(docstring, file.path, "held_out", written_at, self.seed)

    def _commit_documents(self) -> Iterator[RenderedDocument | Dropped]:
        rendered_paths = self._rendered_paths
        columns = ["sha", "path", "old_path", "status", "patch", "kept"]
        rows = self.file_changes.rows(columns)
        for sha, group in groupby(rows, key=lambda row: row["sha"]):
            changes = [
                FileChange(row["path"], row["old_path"], row["status"], row["patch"])
                for row in group
                if row["kept"] and self._is_included(row["path"])
            ]
            commit = self.history.commits.get(sha)
            if commit is None or commit.is_merge:
                continue
            split = self.history.document_split(commit)
            if split == "train":
                changes = [c for c in changes if not self._edits.is_new_path(c.path)]
            yield commit_document(
                commit, split, changes, rendered_paths[split], self._earlier_commits(commit)
            )
            if self.with_chats:
                longest_first = sorted(
                    changes, key=lambda change: (-len(change.patch or ""), change.path)
                )
                yield from change_chats(commit, split, [c.path for c in longest_first], self.seed)
                if split == "train":
                    yield from commit_completion_pairs(
                        commit, changes, rendered_paths["train"], self.project, self.seed
                    )
        if self.with_chats:
            training_history = TrainingHistory(
                self._changes.paths_by_commit,
                [c for c in self._commit_list if self.history.document_split(c) == "train"],
                rendered_paths["train"],
                self.history.cutoff.time,
                self.seed,
            )
            yield from co_change_chats(training_history)
            yield from file_history_chats(training_history)

    def _merge_documents(self) -> Iterator[RenderedDocument | Dropped]:
        shas_by_merge = merged_commits(self.history)
        for merge in self.history.commits.values():
            if not merge.is_merge:
                continue
            merged = [self.history.commits[sha] for sha in shas_by_merge.get(merge.sha, ())]
            # The message describes the merged commits.
            split = self.history.document_split(merge, merged)
            n_commits = Counter(
                path
                for commit in merged
                for path in self._changes.paths_by_commit.get(commit.sha, ())
                if self._is_included(path)
                and not (split == "train" and self._edits.is_new_path(path))
            )
            paths = sorted(n_commits, key=lambda path: (-n_commits[path], path))
            document = merge_document(merge, split, merged, paths)
            yield document
            if self.with_chats and isinstance(document, RenderedDocument):
                yield from change_chats(merge, split, paths, self.seed)

    def _is_included(self, path: str) -> bool:
        return path_exclusion_reason(path) is None and path not in self._paths.excluded

    def _earlier_commits(self, commit: Commit) -> Sequence[Commit]:
        """Return the last earlier commits with a message that changed the same files.

        None of them belongs to a later split than the commit.
        """
        limit = self.incremental_context_sequences
        if not limit:
            return ()
        changes, order = self._changes, self._commit_order
        split = SPLITS.index(self.history.document_split(commit))
        position = order[commit.sha]
        earlier = {
            order[sha]
            for path in changes.paths_by_commit.get(commit.sha, ())[:_MAX_LOOKUP_PATHS]
            for sha in changes.commits_by_path[path]
            if order[sha] < position
            and commit_message(earlier_commit := self.history.commits[sha])
            and SPLITS.index(self.history.document_split(earlier_commit)) <= split
        }
        return [self._commit_list[index] for index in sorted(earlier)[-limit:]]

    def _files_at(self, sha: str | None) -> Iterator[SourceFile]:
        """Yield the included files of a snapshot."""
        excluded = self._paths.excluded
        for row in self._snapshot_rows():
            if row["sha"] == sha and row["path"] not in excluded:
                yield SourceFile(row["path"], row["language"], row["text"])

    def _training_files(self) -> Iterator[SourceFile]:
        """Yield the files of the training snapshot as the training commits left them."""
        for file in self._files_at(self.history.cutoff.sha):
            if not self._edits.is_new_path(file.path):
                yield self._without_evaluation(file)

    def _without_evaluation(self, file: SourceFile) -> SourceFile:
        text = self._edits.text_before(file.path, file.text)
        return file if text == file.text else replace(file, text=text)

    def _snapshot_rows(self) -> Iterator[dict[str, Any]]:
        columns = ["sha", "path", "language", "text", "kept"]
        return (row for row in self.snapshot_files.rows(columns) if row["kept"] and row["text"])

    @cached_property
    def _paths(self) -> "_SnapshotPaths":
        excluded: dict[str, ExclusionReason] = {}
        paths: dict[str, set[str]] = defaultdict(set)
        for row in self._snapshot_rows():
            paths[row["sha"]].add(row["path"])
            if reason := exclusion_reason(row["path"], row["text"]):
                excluded[row["path"]] = reason
        # A path that is excluded in one snapshot is excluded in all.
        included = {
            sha: frozenset(snapshot_paths - excluded.keys())
            for sha, snapshot_paths in paths.items()
        }
        return _SnapshotPaths(excluded, included)

    @cached_property
    def _summary(self) -> "_SnapshotSummary":
        """Summary of the training snapshot, from one pass over its files."""
        purposes: dict[str, str] = {}
        definition_counts: Counter[str] = Counter()
        earlier_imports, current_imports = ImportGraph(), ImportGraph()
        for file in self._files_at(self.history.cutoff.sha):
            docstrings = extract_docstrings(file.text, file.language)
            definition_counts.update(d.name for d in docstrings if d.kind == "definition")
            current_imports.add(file)
            if self._edits.is_new_path(file.path):
                continue
            earlier = self._without_evaluation(file)
            earlier_imports.add(earlier)
            if earlier is not file:
                known = extract_docstrings(earlier.text, earlier.language)
                docstrings = [docstring for docstring in docstrings if docstring in known]
            purposes[file.path] = _file_purpose(docstrings)
        current = current_imports.resolve()
        depends_on = {
            path: sorted(both)
            for path, imported in earlier_imports.resolve().items()
            if (both := imported & current[path])
        }
        return _SnapshotSummary(purposes, definition_counts, depends_on, reverse_graph(depends_on))

    @cached_property
    def _commit_list(self) -> list[Commit]:
        return list(self.history.commits.values())

    @cached_property
    def _commit_order(self) -> Mapping[str, int]:
        return {commit.sha: index for index, commit in enumerate(self._commit_list)}

    @cached_property
    def _rendered_paths(self) -> Mapping[Split, frozenset[str]]:
        """Paths that have a ``file`` document that a commit of the split may rely on."""
        cutoff, included = self.history.cutoff, self._paths.included
        at_cutoff = included.get(cutoff.sha or "", frozenset())
        after = included.get(cutoff.head_sha, frozenset()) & self._changes.modified_after.keys()
        known = frozenset(path for path in at_cutoff if not self._edits.is_new_path(path))
        return {"train": known, "validation": at_cutoff, "held_out": after}

    @cached_property
    def _texts_at_cutoff(self) -> Mapping[str, str]:
        """Texts at the cutoff of files that were changed after it, by their current path."""
        current_path = {
            self._changes.path_at_cutoff.get(path, path): path
            for path in self._changes.modified_after
        }
        return {
            current_path[file.path]: file.text
            for file in self._files_at(self.history.cutoff.sha)
            if file.path in current_path
        }

    @cached_property
    def _changes(self) -> ChangeIndex:
        return build_change_index(self.file_changes, self.history)

    @cached_property
    def _edits(self) -> EvaluationEdits:
        return find_evaluation_edits(
            self._changes.edited_files, self.file_changes, self.snapshot_files, self.history
        )


@dataclass(frozen=True)
class _SnapshotPaths:
    """Paths of the snapshots."""

    excluded: Mapping[str, ExclusionReason]
    """Why a file makes no document, by path."""
    included: Mapping[str, frozenset[str]]
    """Paths of files that make a document, by sha of the snapshot."""


@dataclass(frozen=True)
class _SnapshotSummary:
    """Docstrings and imports of the files of the training snapshot."""

    purposes: Mapping[str, str]
    """Purpose of every training file by path; empty if it does not document it."""
    definition_counts: Mapping[str, int]
    """Number of documented definitions by name."""
    depends_on: Mapping[str, list[str]]
    """The imported paths by path, sorted, of imports that training commits wrote."""
    used_by: Mapping[str, list[str]]


def _file_purpose(docstrings: Sequence[Docstring]) -> str:
    """Return the purpose of a file, from the docstring of the file or its first heading."""
    return next(
        (
            first_sentence(d.text) if d.kind == "file" else d.name
            for d in docstrings
            if d.kind in {"file", "section"}
        ),
        "",
    )
