"""In which folder does this new file live, and in which file this new function?"""

import random
import re
from collections.abc import Iterator
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
from the_block_llm.pipelines.behavioral_eval.tasks.two_times import LaterChange, TwoTimes
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


def folder_of_new_file(times: TwoTimes, seed: int) -> Iterator[ChoiceItem]:
    """Ask for the folder of each file that a later commit added to a known folder.

    Distractors are folders at the cut-off that hold about as many files. The file's own text
    is shown, its name and path are not.
    """
    for commit in times.later:
        source = random.Random(f"{seed}/{TASK}/{commit.sha}")  # noqa: S311
        added = [change for change in commit.changes if _fits(times, change)]
        for change in source.sample(added, min(_FILES_A_COMMIT, len(added))):
            if item := _item(times, commit.sha, change, source):
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
            if item := _function_item(times, commit.sha, path, text, candidates, source):
                yield item


def _function_item(
    times: TwoTimes,
    sha: str,
    path: str,
    text: str,
    candidates: list[str],
    source: random.Random,
) -> ChoiceItem | None:
    often = times.times_changed

    def distance(other: str) -> float:
        return log_ratio(often.get(other, 0), often.get(path, 0)) + log_ratio(len(other), len(path))

    distractors = nearest(candidates, distance, N_CHOICES - 1, source)
    if len(distractors) < N_CHOICES - 1:
        return None
    choices, answer = arrange(path, distractors, source)
    words = set(split_words(text))
    return ChoiceItem(
        task=FUNCTION_TASK,
        item_id=f"{FUNCTION_TASK}/{sha[:12]}/{path}",
        cluster=sha,
        prefix=f"New code in {times.project}:\n\n{text}\n\nIt was added to the file",
        choices=tuple(f" {choice}\n" for choice in choices),
        answer=answer,
        tricks={
            "changed most often": trick([often.get(c, 0) for c in choices], answer),
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


def _item(
    times: TwoTimes, sha: str, change: LaterChange, source: random.Random
) -> ChoiceItem | None:
    folders = times.folders_before
    right = str(PurePosixPath(change.path).parent)

    def distance(folder: str) -> float:
        return log_ratio(folders[folder], folders[right]) + log_ratio(len(folder), len(right))

    distractors = nearest(
        [folder for folder in sorted(folders) if folder != right], distance, N_CHOICES - 1, source
    )
    if len(distractors) < N_CHOICES - 1:
        return None
    choices, answer = arrange(right, distractors, source)
    text = _added_text(change)[:_SHOWN_CHARACTERS]
    words = set(split_words(text))
    return ChoiceItem(
        task=TASK,
        item_id=f"{TASK}/{sha[:12]}/{change.path}",
        cluster=sha,
        prefix=f"A new file of {times.project} begins:\n\n{text}\n\nThe file is in the folder",
        choices=tuple(f" {choice}/\n" for choice in choices),
        answer=answer,
        tricks={
            "most files": trick([folders[c] for c in choices], answer),
            "shortest": trick([-len(c) for c in choices], answer),
            "shared words": trick([len(set(split_words(c)) & words) for c in choices], answer),
        },
    )


def _added_text(change: LaterChange) -> str:
    lines = (change.patch or "").split("\n")
    return "\n".join(line[1:] for line in lines if line.startswith("+")).strip()
