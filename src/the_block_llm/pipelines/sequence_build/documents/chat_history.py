"""Questions about the history: why a change was made, what changes together, what came when."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from the_block_llm.pipelines.sequence_build.document import Draft
from the_block_llm.pipelines.sequence_build.documents.chat import (
    bulleted,
    chat_document,
    choose_wording,
    listed,
)
from the_block_llm.pipelines.sequence_build.documents.commits import dated
from the_block_llm.pipelines.sequence_build.history.commits import Commit
from the_block_llm.pipelines.sequence_build.history.messages import headline_of, message_of
from the_block_llm.schemas import Split

_PATHS_NAMED: Final = 4
_PART_CHARACTERS: Final = 1100  # of an answer; a longer message is asked about part by part
_MOST_PARTS: Final = 6
_MOST_FILES: Final = 30  # a commit of more is a sweep, and ties nothing together
_FEWEST_TOGETHER: Final = 3
_FEWEST_SHARE: Final = 0.3
_FEWEST_TOLD: Final = 2
_CHANGES_LISTED: Final = 8
_SUBJECT_CHARACTERS: Final = 120
_WHAT: Final = (
    "What did {what} {sha} change?",
    "What does {what} {sha} of {date} do?",
    "Which change to {path} did {what} {sha} make?",
)
_WHY: Final = (
    "What did {what} {sha} change, and why?",
    "Why was {path} changed in {what} {sha}?",
    "What was done in {subject!r}, and to what end?",
    "Explain the change {subject!r}.",
)
_WHY_UNNAMED: Final = _WHY[:2]
_TOGETHER: Final = (
    "What else usually changes when {path} changes?",
    "I am about to change {path}. Which other files should I look at?",
    "Which files does the history tie to {path}?",
)
_CAME_ABOUT: Final = (
    "How did {path} come to be what it is?",
    "What was done to {path}, and when?",
    "Give me the history of {path}.",
)


def change_chats(commit: Commit, split: Split, paths: Sequence[str], seed: int) -> Iterator[Draft]:
    """Ask what a change did and why, as far as its message says.

    Args:
        commit: It may be a merge; then ``paths`` are those of what it brought.
        split: Side of the cut-off.
        paths: What it changed, most telling first.
        seed: Of the wording.
    """
    message = message_of(commit)
    if not message or commit.is_bot or not paths:
        return
    subject, _, body = message.partition("\n")
    what = "merge" if commit.is_merge else "commit"
    wordings: Sequence[str] = _WHAT
    if body.strip():
        wordings = _WHY if len(subject) <= _SUBJECT_CHARACTERS else _WHY_UNNAMED
    question = choose_wording(wordings, commit.sha, seed).format(
        what=what, sha=commit.short_sha, date=f"{commit.authored_at:%Y-%m-%d}",
        path=paths[0], subject=subject.rstrip("."),
    )  # fmt: skip
    opening = f"{what.capitalize()} {dated(commit)}"
    lines = "" if commit.is_merge else f" (+{commit.insertions}, -{commit.deletions} lines)"
    parts = _parts(message)[:_MOST_PARTS]
    for number, part in enumerate(parts, 1):
        answer = f"{opening}: {part}"
        if len(parts) > 1:
            asked = f"{question} (part {number} of {len(parts)})"
            answer = f"{opening}, part {number} of {len(parts)}: {part}"
        else:
            asked = question
        if number == len(parts):
            answer += f"\n\nIt changed {listed(paths, _PATHS_NAMED)}{lines}."
        yield chat_document(
            "why", f"{commit.sha}:{number}", split, commit.sha, commit.authored_at, asked, answer
        )


def _parts(message: str) -> list[str]:
    """Cut a long message between lines, or between sentences where a line is long."""
    pieces = [
        piece
        for line in message.splitlines(keepends=True)
        for piece in (
            re.split(r"(?<=[.!?] )(?=[A-Z])", line) if len(line) > _PART_CHARACTERS else [line]
        )
    ]
    parts: list[str] = []
    for piece in pieces:
        if parts and len(parts[-1]) + len(piece) <= _PART_CHARACTERS:
            parts[-1] += piece
        else:
            parts.append(piece)
    return [part.strip() for part in parts if part.strip()]


@dataclass(frozen=True)
class TrainedHistory:
    """What is learned of the history, for questions about its files."""

    paths_of: Mapping[str, Sequence[str]]
    """Changed paths by sha."""
    commits: Sequence[Commit]
    """Those on the training side, oldest first."""
    existing: frozenset[str]
    """Paths of the training snapshot; others are not asked about."""
    written_at: datetime
    """The cut-off."""
    seed: int
    """Of the wording."""

    def chat(self, topic: str, wordings: Sequence[str], path: str, answer: str) -> Draft:
        """A question about a file, with its answer."""
        question = choose_wording(wordings, path, self.seed).format(path=path)
        return chat_document(topic, path, "train", path, self.written_at, question, answer)


def together_chats(history: TrainedHistory) -> Iterator[Draft]:
    """Ask what else changes with a file, from the commits that are trained on."""
    times: Counter[str] = Counter()
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for commit in history.commits:
        paths = [path for path in history.paths_of.get(commit.sha, ()) if path in history.existing]
        if commit.is_merge or not 1 < len(paths) <= _MOST_FILES:
            continue
        for path in paths:
            times[path] += 1
            together[path].update(other for other in paths if other != path)
    for path in sorted(together):
        tied = sorted(
            (
                (count, other)
                for other, count in together[path].items()
                if count >= _FEWEST_TOGETHER and count >= _FEWEST_SHARE * times[path]
            ),
            key=lambda pair: (-pair[0], pair[1]),
        )
        if not tied:
            continue
        lines = [f"- {other}, in {count} of them" for count, other in tied[:5]]
        answer = (
            f"{path} was changed together with other files in {times[path]} commits:\n"
            + "\n".join(lines)
        )
        yield history.chat("together", _TOGETHER, path, answer)


def history_chats(history: TrainedHistory) -> Iterator[Draft]:
    """Ask what was done to a file over time; files of fewer than two told changes are left out."""
    times: Counter[str] = Counter()
    told: dict[str, list[str]] = defaultdict(list)
    for commit in history.commits:
        paths = history.paths_of.get(commit.sha, ())
        # What a sweep says is not about any of its files, and would be said of all of them.
        headline = headline_of(commit) if len(paths) <= _MOST_FILES else ""
        for path in paths:
            times[path] += 1
            if headline and path in history.existing:
                at = f"{commit.authored_at:%Y-%m-%d}"
                told[path].append(f"- {at}, {commit.short_sha}: {headline}")
    for path, changes in sorted(told.items()):
        if len(changes) < _FEWEST_TOLD:
            continue
        said = "all" if len(changes) == times[path] else str(len(changes))
        newest_first = bulleted(changes[::-1], _CHANGES_LISTED)
        answer = (
            f"{times[path]} commits changed {path}. What {said} of them say, newest first:\n"
            f"{newest_first}"
        )
        yield history.chat("history", _CAME_ABOUT, path, answer)
