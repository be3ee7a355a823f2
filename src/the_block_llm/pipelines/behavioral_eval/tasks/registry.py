"""Registry of the multiple-choice tasks built from the repository.

A task is a function in a module of this folder and an entry in ``TASKS``. ``general_ability`` is
not built from the repository and has fixed items, so it is not listed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from the_block_llm.pipelines.behavioral_eval.held_out.contamination import TrainOverlap
from the_block_llm.pipelines.behavioral_eval.tasks import (
    co_change,
    commit_messages,
    documentation,
    file_existence,
    placement,
)
from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem, sample_across_clusters
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import HistorySplit


@dataclass(frozen=True)
class Task:
    """A multiple-choice task."""

    name: str
    title: str
    """Name of its metric in the report."""
    make_items: Callable[[HistorySplit, int], Iterator[ChoiceItem]]
    is_paired: bool = False
    """True if the items of a cluster are sampled together."""


TASKS: Final = (
    Task(co_change.TASK, "Which file changed as well", co_change.also_changed),
    Task(
        commit_messages.MESSAGE_TASK,
        "Which message fits this change",
        commit_messages.message_of_patch,
    ),
    Task(
        commit_messages.PATCH_TASK,
        "Which change fits this message",
        commit_messages.patch_of_message,
    ),
    Task(placement.TASK, "Where a new file belongs", placement.folder_of_new_file),
    Task(placement.FUNCTION_TASK, "Where a new function belongs", placement.file_of_new_function),
    Task(documentation.TASK, "Which text follows a heading", documentation.text_under_heading),
    Task(
        file_existence.TASK, "Whether a file exists", file_existence.exists_or_not, is_paired=True
    ),
)


def sample_items(history: HistorySplit, n_items: int, seed: int) -> list[ChoiceItem]:
    """Sample up to ``n_items`` of each task, spread over commits and files."""
    return [
        item
        for task in TASKS
        for item in sample_across_clusters(
            list(task.make_items(history, seed)),
            n_items,
            seed,
            keep_clusters_together=task.is_paired,
        )
    ]


def add_train_overlap(items: Sequence[ChoiceItem], train_overlap: TrainOverlap) -> list[ChoiceItem]:
    """Set on each item how much of its commit or file occurs in the training documents."""
    return [
        replace(item, train_overlap=train_overlap.by_source.get(item.cluster, 0.0))
        for item in items
    ]
