"""Questions about the history: reasons for changes, files that change together, file histories."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from the_block_llm.pipelines.sequence_build.document import RenderedDocument
from the_block_llm.pipelines.sequence_build.documents.chat import (
    bulleted_list,
    chat_document,
    choose_template,
    join_names,
)
from the_block_llm.pipelines.sequence_build.documents.commits import commit_label
from the_block_llm.pipelines.sequence_build.history.commits import Commit
from the_block_llm.pipelines.sequence_build.history.messages import commit_headline, commit_message
from the_block_llm.schemas import Split

_MAX_PATHS: Final = 4
_MAX_PART_CHARACTERS: Final = 1100  # of an answer; a longer message is split into parts
_MAX_PARTS: Final = 6
_MAX_FILES: Final = 30  # a larger commit is a sweeping change that says nothing about one file
_MIN_CO_CHANGES: Final = 3
_MIN_CO_CHANGE_FRACTION: Final = 0.3
_MIN_CHANGES: Final = 2
_MAX_CHANGES: Final = 8
_MAX_SUBJECT_CHARACTERS: Final = 120
_CHANGE_QUESTIONS: Final = (
    "What did {what} {sha} change?",
    "What does {what} {sha} of {date} do?",
    "Which change to {path} did {what} {sha} make?",
)
_REASON_QUESTIONS: Final = (
    "What did {what} {sha} change, and why?",
    "Why was {path} changed in {what} {sha}?",
    "What was done in {subject!r}, and to what end?",
    "Explain the change {subject!r}.",
)
_REASON_QUESTIONS_WITHOUT_SUBJECT: Final = _REASON_QUESTIONS[:2]
_CO_CHANGE_QUESTIONS: Final = (
    "What else usually changes when {path} changes?",
    "I am about to change {path}. Which other files should I look at?",
    "Which files does the history tie to {path}?",
)
_FILE_HISTORY_QUESTIONS: Final = (
    "How did {path} come to be what it is?",
    "What was done to {path}, and when?",
    "Give me the history of {path}.",
)


def change_chats(
    commit: Commit, split: Split, paths: Sequence[str], seed: int
) -> Iterator[RenderedDocument]:
    """Ask what a commit changed and, if its message has a body, why.

    Args:
        commit: A commit or merge; for a merge ``paths`` are those of the merged commits.
        split: Split of the document.
        paths: Changed paths, the most informative first.
        seed: Chooses the phrasing.
    """
    message = commit_message(commit)
    if not message or commit.is_bot or not paths:
        return
    subject, _, body = message.partition("\n")
    what = "merge" if commit.is_merge else "commit"
    templates: Sequence[str] = _CHANGE_QUESTIONS
    if body.strip():
        templates = (
            _REASON_QUESTIONS
            if len(subject) <= _MAX_SUBJECT_CHARACTERS
            else _REASON_QUESTIONS_WITHOUT_SUBJECT
        )
    question = choose_template(templates, commit.sha, seed).format(
        what=what, sha=commit.short_sha, date=f"{commit.authored_at:%Y-%m-%d}",
        path=paths[0], subject=subject.rstrip("."),
    )  # fmt: skip
    opening = f"{what.capitalize()} {commit_label(commit)}"
    line_counts = "" if commit.is_merge else f" (+{commit.insertions}, -{commit.deletions} lines)"
    parts = _split_message(message)[:_MAX_PARTS]
    for number, part in enumerate(parts, 1):
        answer = f"{opening}: {part}"
        part_question = question
        if len(parts) > 1:
            part_question = f"{question} (part {number} of {len(parts)})"
            answer = f"{opening}, part {number} of {len(parts)}: {part}"
        if number == len(parts):
            answer += f"\n\nIt changed {join_names(paths, _MAX_PATHS)}{line_counts}."
        key = f"{commit.sha}:{number}"
        yield chat_document(
            "why", key, split, commit.sha, commit.authored_at, part_question, answer
        )


def _split_message(message: str) -> list[str]:
    """Split a long message between lines, and a long line between sentences."""
    sentences = [
        sentence
        for line in message.splitlines(keepends=True)
        for sentence in (
            re.split(r"(?<=[.!?] )(?=[A-Z])", line) if len(line) > _MAX_PART_CHARACTERS else [line]
        )
    ]
    parts: list[str] = []
    for sentence in sentences:
        if parts and len(parts[-1]) + len(sentence) <= _MAX_PART_CHARACTERS:
            parts[-1] += sentence
        else:
            parts.append(sentence)
    return [part.strip() for part in parts if part.strip()]


@dataclass(frozen=True)
class TrainingHistory:
    """Training commits and the files they changed, for questions about files."""

    paths_by_commit: Mapping[str, Sequence[str]]
    """Changed paths by sha."""
    commits: Sequence[Commit]
    """Training commits, oldest first."""
    existing_paths: frozenset[str]
    """Paths in the training snapshot; there are no questions about others."""
    written_at: datetime
    """Time of the cutoff."""
    seed: int
    """Chooses the phrasing."""

    def chat(
        self, topic: str, templates: Sequence[str], path: str, answer: str
    ) -> RenderedDocument:
        """Render a question about a file with its answer."""
        question = choose_template(templates, path, self.seed).format(path=path)
        return chat_document(topic, path, "train", path, self.written_at, question, answer)


def co_change_chats(history: TrainingHistory) -> Iterator[RenderedDocument]:
    """Ask which files change together with a file, according to the training commits."""
    n_commits: Counter[str] = Counter()
    co_changes: dict[str, Counter[str]] = defaultdict(Counter)
    for commit in history.commits:
        paths = [
            path
            for path in history.paths_by_commit.get(commit.sha, ())
            if path in history.existing_paths
        ]
        if commit.is_merge or not 1 < len(paths) <= _MAX_FILES:
            continue
        for path in paths:
            n_commits[path] += 1
            co_changes[path].update(other for other in paths if other != path)
    for path in sorted(co_changes):
        frequent = sorted(
            (
                (count, other)
                for other, count in co_changes[path].items()
                if count >= _MIN_CO_CHANGES and count >= _MIN_CO_CHANGE_FRACTION * n_commits[path]
            ),
            key=lambda pair: (-pair[0], pair[1]),
        )
        if not frequent:
            continue
        lines = [f"- {other}, in {count} of them" for count, other in frequent[:5]]
        answer = (
            f"{path} was changed together with other files in {n_commits[path]} commits:\n"
            + "\n".join(lines)
        )
        yield history.chat("together", _CO_CHANGE_QUESTIONS, path, answer)


def file_history_chats(history: TrainingHistory) -> Iterator[RenderedDocument]:
    """Ask for the history of each file that at least two commits with a message changed."""
    n_commits: Counter[str] = Counter()
    changes_by_path: dict[str, list[str]] = defaultdict(list)
    for commit in history.commits:
        paths = history.paths_by_commit.get(commit.sha, ())
        # The message of a sweeping change is not about any one of its files.
        headline = commit_headline(commit) if len(paths) <= _MAX_FILES else ""
        for path in paths:
            n_commits[path] += 1
            if headline and path in history.existing_paths:
                date = f"{commit.authored_at:%Y-%m-%d}"
                changes_by_path[path].append(f"- {date}, {commit.short_sha}: {headline}")
    for path, changes in sorted(changes_by_path.items()):
        if len(changes) < _MIN_CHANGES:
            continue
        n_listed = "all" if len(changes) == n_commits[path] else str(len(changes))
        newest_first = bulleted_list(changes[::-1], _MAX_CHANGES)
        answer = (
            f"{n_commits[path]} commits changed {path}. What {n_listed} of them say, "
            f"newest first:\n{newest_first}"
        )
        yield history.chat("history", _FILE_HISTORY_QUESTIONS, path, answer)
