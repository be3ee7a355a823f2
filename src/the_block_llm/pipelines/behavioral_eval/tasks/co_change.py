"""Task: which other file did this later commit change?"""

import random
from collections.abc import Iterator
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
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import HeldOutCommit, HistorySplit

TASK: Final = "also_changed"
_SHOWN_PATHS: Final = 3
# Tree-wide commits carry no information about which files change together.
_MAX_FILES: Final = 40
_ITEMS_PER_COMMIT: Final = 3


def also_changed(history: HistorySplit, seed: int) -> Iterator[ChoiceItem]:
    """Ask for one more path of each held-out commit that changed several existing files.

    Distractors are files at the cut-off with the same suffix that the commit did not change,
    similar in number of changes, time of the last change and path length.
    """
    for commit in history.held_out_commits:
        known = sorted({c.path for c in commit.changes if c.path in history.paths_at_cutoff})
        if not 2 <= len(known) <= _MAX_FILES:
            continue
        rng = random.Random(f"{seed}/{commit.sha}")  # noqa: S311
        for path in rng.sample(known, min(_ITEMS_PER_COMMIT, len(known))):
            others = [other for other in known if other != path]
            shown = rng.sample(others, min(_SHOWN_PATHS, len(others)))
            if item := _item(history, commit, path, sorted(shown), rng):
                yield item


def _item(
    history: HistorySplit, commit: HeldOutCommit, path: str, shown: list[str], rng: random.Random
) -> ChoiceItem | None:
    changed = {change.path for change in commit.changes}
    same_suffix = history.paths_by_suffix[PurePosixPath(path).suffix]
    candidates = [other for other in same_suffix if other not in changed]
    change_counts = history.change_counts

    def distance(other: str) -> float:
        return (
            abs_log_ratio(change_counts.get(other, 0), change_counts.get(path, 0))
            + abs_log_ratio(history.days_since_change(other), history.days_since_change(path))
            + abs_log_ratio(len(other), len(path))
        )

    distractors = sample_nearest(candidates, distance, N_CHOICES - 1, rng)
    if len(distractors) < N_CHOICES - 1:
        return None
    choices, answer = insert_answer(path, distractors, rng)
    message = f"Message: {commit.subject.strip()}\n" if commit.informative else ""
    path_list = "".join(f"- {other}\n" for other in shown)
    last_changed_at = history.last_changed_at
    return ChoiceItem(
        task=TASK,
        item_id=f"{TASK}/{commit.sha[:12]}/{path}",
        cluster=commit.sha,
        prefix=f"One commit to {history.project}.\n{message}Files it changed:\n{path_list}-",
        choices=tuple(f" {choice}\n" for choice in choices),
        answer=answer,
        heuristic_baselines={
            "changed most often": heuristic_accuracy(
                [change_counts.get(c, 0) for c in choices], answer
            ),
            "changed last": heuristic_accuracy(
                [last_changed_at[c].timestamp() if c in last_changed_at else 0.0 for c in choices],
                answer,
            ),
            "shortest": heuristic_accuracy([-len(c) for c in choices], answer),
            "nearest folder": heuristic_accuracy(
                [_shared_folder_depth(c, shown) for c in choices], answer
            ),
        },
    )


def _shared_folder_depth(path: str, shown: list[str]) -> float:
    """Return the largest number of leading folders that ``path`` shares with one of ``shown``."""
    folders = PurePosixPath(path).parts[:-1]
    deepest = 0
    for other in shown:
        depth = 0
        for folder, other_folder in zip(folders, PurePosixPath(other).parts[:-1], strict=False):
            if folder != other_folder:
                break
            depth += 1
        deepest = max(deepest, depth)
    return deepest
