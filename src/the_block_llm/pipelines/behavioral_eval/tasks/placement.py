"""In which folder does this new file live, and in which file this new function?"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from the_block_llm.pipelines.behavioral_eval.tasks.choice import (
    N_CHOICES,
    ChoiceItem,
    arrange,
    log_ratio,
    nearest,
    trick,
)
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import LaterChange, TwoTimes
from the_block_llm.retrieval.words import split_words

TASK: Final = "folder_of_new_file"
_SHOWN_CHARACTERS: Final = 600
_LEAST_CHARACTERS: Final = 120
_FILES_A_COMMIT: Final = 3
FUNCTION_TASK: Final = "file_of_new_function"
_FUNCTION: Final = re.compile(
    r"\s*(?:export |default |pub(?:\([a-z ]+\))? |static |async |unsafe |const )*"
    r"(?:fn|def|func|function|class|impl|struct|interface) +\(?(?P<name>\w+)"
)
_LEAST_LINES: Final = 4
_MOST_LINES: Final = 20


@dataclass(frozen=True)
class _Asked:
    """One question of either kind."""

    task: str
    sha: str
    path: str
    """Of the new file, or of the file with the new function."""
    right: str
    text: str
    """What is shown."""
    size_trick: str
    """Name of the trick that takes the largest or the most often changed."""


def folder_of_new_file(times: TwoTimes, seed: int) -> Iterator[ChoiceItem]:
    """Ask for the folder of each file that a later commit added to a known folder.

    Distractors are folders at the cut-off that hold about as many files. The file's own text
    is shown, its name and path are not.
    """
    for commit in times.later:
        source = random.Random(f"{seed}/{TASK}/{commit.sha}")  # noqa: S311
        added = [change for change in commit.changes if _fits(times, change)]
        for change in source.sample(added, min(_FILES_A_COMMIT, len(added))):
            right = str(PurePosixPath(change.path).parent)
            others = [folder for folder in sorted(times.folders_before) if folder != right]
            text = _added_text(change)[:_SHOWN_CHARACTERS]
            asked = _Asked(TASK, commit.sha, change.path, right, text, "most files")
            if item := _item(
                asked, others, times.folders_before, source,
                prefix=f"A new file of {times.project} begins:\n\n{text}\n\n"
                "The file is in the folder",
                ending="/",
            ):  # fmt: skip
                yield item


def file_of_new_function(times: TwoTimes, seed: int) -> Iterator[ChoiceItem]:
    """Ask for the file of a function that a later commit added to a known file.

    Distractors are files of the same kind, changed about as often, with paths of about the same
    length. The function's own text is shown, nothing of what stands around it.
    """
    for commit in times.later:
        source = random.Random(f"{seed}/{FUNCTION_TASK}/{commit.sha}")  # noqa: S311
        added = [
            (change.path, text)
            for change in commit.changes
            if change.path in times.paths_before and (text := _new_function(change))
        ]
        touched = {change.path for change in commit.changes}
        for path, text in source.sample(added, min(_FILES_A_COMMIT, len(added))):
            alike = times.paths_by_suffix[PurePosixPath(path).suffix]
            candidates = [other for other in alike if other not in touched]
            asked = _Asked(FUNCTION_TASK, commit.sha, path, path, text, "changed most often")
            if item := _item(
                asked, candidates, times.times_changed, source,
                prefix=f"New code in {times.project}:\n\n{text}\n\nIt was added to the file",
            ):  # fmt: skip
                yield item


def _item(
    asked: _Asked,
    candidates: list[str],
    sizes: Mapping[str, int],
    source: random.Random,
    *,
    prefix: str,
    ending: str = "",
) -> ChoiceItem | None:
    """The question with its choices; none where too few candidates are like the right one.

    Args:
        asked: What is asked.
        candidates: Wrong answers, of which those are taken that are about as large and as long.
        sizes: How many files a folder holds, or how often a file was changed.
        source: Of the order.
        prefix: What the model reads before the choice.
        ending: Stands behind each choice.
    """
    right = asked.right

    def distance(other: str) -> float:
        like = log_ratio(sizes.get(other, 0), sizes.get(right, 0))
        return like + log_ratio(len(other), len(right))

    distractors = nearest(candidates, distance, N_CHOICES - 1, source)
    if len(distractors) < N_CHOICES - 1:
        return None
    choices, answer = arrange(right, distractors, source)
    words = set(split_words(asked.text))
    return ChoiceItem(
        task=asked.task,
        item_id=f"{asked.task}/{asked.sha[:12]}/{asked.path}",
        cluster=asked.sha,
        prefix=prefix,
        choices=tuple(f" {choice}{ending}\n" for choice in choices),
        answer=answer,
        tricks={
            asked.size_trick: trick([sizes.get(c, 0) for c in choices], answer),
            "shortest": trick([-len(c) for c in choices], answer),
            "shared words": trick([len(set(split_words(c)) & words) for c in choices], answer),
        },
    )


def _new_function(change: LaterChange) -> str | None:
    """The first piece of code in a patch that is added whole, and not in place of its like."""
    lines = (change.patch or "").split("\n")
    removed = " ".join(line[1:] for line in lines if line.startswith("-"))
    block: list[str] = []
    for line in [*lines, ""]:
        is_added = line.startswith("+") and not line.startswith("+++")
        begins = is_added and (found := _FUNCTION.match(line[1:])) and found["name"] not in removed
        if is_added and (block or begins) and len(block) < _MOST_LINES:
            block.append(line[1:])
            continue
        text = "\n".join(block).strip("\n")
        if len(block) >= _LEAST_LINES and len(text) >= _LEAST_CHARACTERS:
            return text[:_SHOWN_CHARACTERS]
        block = []
    return None


def _fits(times: TwoTimes, change: LaterChange) -> bool:
    folder = str(PurePosixPath(change.path).parent)
    return (
        change.status == "A"
        and folder in times.folders_before
        and len(_added_text(change)) >= _LEAST_CHARACTERS
    )


def _added_text(change: LaterChange) -> str:
    lines = (change.patch or "").split("\n")
    return "\n".join(line[1:] for line in lines if line.startswith("+")).strip()
