"""Which file did this later commit change as well?"""

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
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import LaterCommit, TwoTimes

TASK: Final = "also_changed"
_SHOWN: Final = 3
# A sweep through the whole tree says nothing of which files belong together.
_MOST_FILES: Final = 40
_ITEMS_A_COMMIT: Final = 3


def also_changed(times: TwoTimes, seed: int) -> Iterator[ChoiceItem]:
    """Ask for one more path of each later commit that touched several known files.

    Distractors are files of the same kind at the cut-off that the commit left alone, changed
    about as often and as lately before, with paths of about the same length.
    """
    for commit in times.later:
        known = sorted({c.path for c in commit.changes if c.path in times.paths_before})
        if not 2 <= len(known) <= _MOST_FILES:
            continue
        source = random.Random(f"{seed}/{commit.sha}")  # noqa: S311
        for path in source.sample(known, min(_ITEMS_A_COMMIT, len(known))):
            others = [other for other in known if other != path]
            shown = source.sample(others, min(_SHOWN, len(others)))
            if item := _item(times, commit, path, sorted(shown), source):
                yield item


def _item(
    times: TwoTimes, commit: LaterCommit, path: str, shown: list[str], source: random.Random
) -> ChoiceItem | None:
    touched = {change.path for change in commit.changes}
    alike = times.paths_by_suffix[PurePosixPath(path).suffix]
    candidates = [other for other in alike if other not in touched]
    often = times.times_changed

    def distance(other: str) -> float:
        return (
            log_ratio(often.get(other, 0), often.get(path, 0))
            + log_ratio(times.days_idle(other), times.days_idle(path))
            + log_ratio(len(other), len(path))
        )

    distractors = nearest(candidates, distance, N_CHOICES - 1, source)
    if len(distractors) < N_CHOICES - 1:
        return None
    choices, answer = arrange(path, distractors, source)
    message = f"Message: {commit.subject.strip()}\n" if commit.informative else ""
    listed = "".join(f"- {other}\n" for other in shown)
    last = times.last_changed
    return ChoiceItem(
        task=TASK,
        item_id=f"{TASK}/{commit.sha[:12]}/{path}",
        cluster=commit.sha,
        prefix=f"One commit to {times.project}.\n{message}Files it changed:\n{listed}-",
        choices=tuple(f" {choice}\n" for choice in choices),
        answer=answer,
        tricks={
            "changed most often": trick([often.get(c, 0) for c in choices], answer),
            "changed last": trick(
                [last[c].timestamp() if c in last else 0.0 for c in choices], answer
            ),
            "shortest": trick([-len(c) for c in choices], answer),
            "nearest folder": trick([_shared_folders(c, shown) for c in choices], answer),
        },
    )


def _shared_folders(path: str, shown: list[str]) -> float:
    """Leading folders that ``path`` has in common with the nearest of ``shown``."""
    parts = PurePosixPath(path).parts
    best = 0
    for other in shown:
        shared = 0
        for mine, theirs in zip(parts[:-1], PurePosixPath(other).parts[:-1], strict=False):
            if mine != theirs:
                break
            shared += 1
        best = max(best, shared)
    return best
