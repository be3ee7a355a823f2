"""In which folder does this new file live?"""

import random
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
