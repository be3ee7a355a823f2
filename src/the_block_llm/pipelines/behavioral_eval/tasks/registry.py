"""All tasks that are made from the repository, and what each one shows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from the_block_llm.pipelines.behavioral_eval.held_out.contamination import Familiar
from the_block_llm.pipelines.behavioral_eval.tasks import (
    abstention,
    co_change,
    documentation,
    messages,
    placement,
)
from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem, draw_spread
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import TwoTimes


@dataclass(frozen=True)
class Task:
    """One kind of question."""

    name: str
    title: str
    """As a measure in the report."""
    make: Callable[[TwoTimes, int], Iterator[ChoiceItem]]
    in_pairs: bool = False
    """The items of a cluster belong together."""


TASKS: Final = (
    Task(co_change.TASK, "Which file changed as well", co_change.also_changed),
    Task(messages.MESSAGE_TASK, "Which message fits this change", messages.message_of_patch),
    Task(messages.PATCH_TASK, "Which change fits this message", messages.patch_of_message),
    Task(placement.TASK, "Where a new file lives", placement.folder_of_new_file),
    Task(placement.FUNCTION_TASK, "Where a new function belongs", placement.file_of_new_function),
    Task(documentation.TASK, "What stands under a heading", documentation.text_under_heading),
    Task(abstention.TASK, "Whether a file exists", abstention.exists_or_not, in_pairs=True),
)


def draw_items(times: TwoTimes, n_items: int, seed: int) -> list[ChoiceItem]:
    """Draw ``n_items`` at most of each task, spread over commits and files."""
    return [
        item
        for task in TASKS
        for item in draw_spread(
            list(task.make(times, seed)), n_items, seed, whole_clusters=task.in_pairs
        )
    ]


def mark_familiar(items: Sequence[ChoiceItem], familiar: Familiar) -> list[ChoiceItem]:
    """Note on each item how much of its commit or file training has seen."""
    return [replace(item, familiar=familiar.by_source.get(item.cluster, 0.0)) for item in items]
