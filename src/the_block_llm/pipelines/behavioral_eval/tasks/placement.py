"""Tasks: which folder does this new file belong to, and which file this new function?"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from the_block_llm.pipelines.behavioral_eval.tasks.choice import (
    N_CHOICES,
    ChoiceItem,
    abs_log_ratio,
    heuristic_accuracy,
    insert_answer,
    sample_nearest,
)
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import HeldOutChange, HistorySplit
from the_block_llm.retrieval.words import split_words

TASK: Final = "folder_of_new_file"
_MAX_SHOWN_CHARACTERS: Final = 600
_MIN_CHARACTERS: Final = 120
_FILES_PER_COMMIT: Final = 3
FUNCTION_TASK: Final = "file_of_new_function"
_FUNCTION: Final = re.compile(
    r"\s*(?:export |default |pub(?:\([a-z ]+\))? |static |async |unsafe |const )*"
    r"(?:fn|def|func|function|class|impl|struct|interface) +\(?(?P<name>\w+)"
)
_MIN_BLOCK_LINES: Final = 4
_MAX_BLOCK_LINES: Final = 20


@dataclass(frozen=True)
class _PlacementQuestion:
    """A question of either task, before distractors are sampled."""

    task: str
    sha: str
    path: str
    """Path of the new file, or of the file with the new function."""
    answer: str
    text: str
    """The code in the prompt."""
    count_baseline: str
    """Name of the heuristic that picks the largest folder or the most often changed file."""


def folder_of_new_file(history: HistorySplit, seed: int) -> Iterator[ChoiceItem]:
    """Ask for the folder of each file that a later commit added to an existing folder.

    Distractors are folders at the cut-off with a similar number of files. The prompt shows
    the text of the file, without its name and path.
    """
    for commit in history.held_out_commits:
        rng = random.Random(f"{seed}/{TASK}/{commit.sha}")  # noqa: S311
        added = [change for change in commit.changes if _is_eligible(history, change)]
        for change in rng.sample(added, min(_FILES_PER_COMMIT, len(added))):
            folder = str(PurePosixPath(change.path).parent)
            others = [other for other in sorted(history.files_per_folder) if other != folder]
            text = _added_text(change)[:_MAX_SHOWN_CHARACTERS]
            question = _PlacementQuestion(TASK, commit.sha, change.path, folder, text, "most files")
            if item := _item(
                question, others, history.files_per_folder, rng,
                prefix=f"A new file of {history.project} begins:\n\n{text}\n\n"
                "The file is in the folder",
                suffix="/",
            ):  # fmt: skip
                yield item


def file_of_new_function(history: HistorySplit, seed: int) -> Iterator[ChoiceItem]:
    """Ask for the file of a function that a later commit added to an existing file.

    Distractors are files with the same suffix, similar in number of changes and path length.
    The prompt shows the text of the function, without the code around it.
    """
    for commit in history.held_out_commits:
        rng = random.Random(f"{seed}/{FUNCTION_TASK}/{commit.sha}")  # noqa: S311
        added = [
            (change.path, text)
            for change in commit.changes
            if change.path in history.paths_at_cutoff and (text := _first_added_function(change))
        ]
        changed = {change.path for change in commit.changes}
        for path, text in rng.sample(added, min(_FILES_PER_COMMIT, len(added))):
            same_suffix = history.paths_by_suffix[PurePosixPath(path).suffix]
            candidates = [other for other in same_suffix if other not in changed]
            question = _PlacementQuestion(
                FUNCTION_TASK, commit.sha, path, path, text, "changed most often"
            )
            if item := _item(
                question, candidates, history.change_counts, rng,
                prefix=f"New code in {history.project}:\n\n{text}\n\nIt was added to the file",
            ):  # fmt: skip
                yield item


def _item(
    question: _PlacementQuestion,
    candidates: list[str],
    sizes: Mapping[str, int],
    rng: random.Random,
    *,
    prefix: str,
    suffix: str = "",
) -> ChoiceItem | None:
    """Return the question with its choices, or None if there are too few candidates.

    Args:
        question: The question and its answer.
        candidates: Wrong answers, from which similar ones are sampled.
        sizes: Number of files in a folder, or number of changes of a file.
        rng: Random number generator for distractors and their order.
        prefix: Prompt before the choice.
        suffix: Appended to each choice.
    """

    def distance(other: str) -> float:
        return abs_log_ratio(sizes.get(other, 0), sizes.get(question.answer, 0)) + abs_log_ratio(
            len(other), len(question.answer)
        )

    distractors = sample_nearest(candidates, distance, N_CHOICES - 1, rng)
    if len(distractors) < N_CHOICES - 1:
        return None
    choices, answer = insert_answer(question.answer, distractors, rng)
    words = set(split_words(question.text))
    return ChoiceItem(
        task=question.task,
        item_id=f"{question.task}/{question.sha[:12]}/{question.path}",
        cluster=question.sha,
        prefix=prefix,
        choices=tuple(f" {choice}{suffix}\n" for choice in choices),
        answer=answer,
        heuristic_baselines={
            question.count_baseline: heuristic_accuracy([sizes.get(c, 0) for c in choices], answer),
            "shortest": heuristic_accuracy([-len(c) for c in choices], answer),
            "shared words": heuristic_accuracy(
                [len(set(split_words(c)) & words) for c in choices], answer
            ),
        },
    )


def _first_added_function(change: HeldOutChange) -> str | None:
    """Return the first function or type that a patch adds, unless it replaces a removed one."""
    lines = (change.patch or "").split("\n")
    removed = " ".join(line[1:] for line in lines if line.startswith("-"))
    block: list[str] = []
    for line in [*lines, ""]:
        is_added = line.startswith("+") and not line.startswith("+++")
        starts_function = (
            is_added
            and (definition := _FUNCTION.match(line[1:]))
            and definition["name"] not in removed
        )
        if is_added and (block or starts_function) and len(block) < _MAX_BLOCK_LINES:
            block.append(line[1:])
            continue
        text = "\n".join(block).strip("\n")
        if len(block) >= _MIN_BLOCK_LINES and len(text) >= _MIN_CHARACTERS:
            return text[:_MAX_SHOWN_CHARACTERS]
        block = []
    return None


def _is_eligible(history: HistorySplit, change: HeldOutChange) -> bool:
    """Return True for a long enough file added to an existing folder."""
    folder = str(PurePosixPath(change.path).parent)
    return (
        change.status == "A"
        and folder in history.files_per_folder
        and len(_added_text(change)) >= _MIN_CHARACTERS
    )


def _added_text(change: HeldOutChange) -> str:
    lines = (change.patch or "").split("\n")
    return "\n".join(line[1:] for line in lines if line.startswith("+")).strip()
