"""Task: does this file exist? For half of the items the correct answer is no."""

import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import HistorySplit

TASK: Final = "exists_or_not"
_MAX_PAIRS: Final = 400
_MAX_ATTEMPTS: Final = 20
_NAME_PART: Final = re.compile(r"[A-Za-z]{3,}")


def exists_or_not(history: HistorySplit, seed: int) -> Iterator[ChoiceItem]:
    """Yield pairs of items about a real and an invented file, with the same prompt template.

    An invented file is in the folder of its real counterpart, and its name consists of parts
    of existing names, so the form of the path does not give the answer away. A model that
    always answers yes, or always no, is right half the time.
    """
    rng = random.Random(f"{seed}/{TASK}")  # noqa: S311
    paths = [
        path
        for path in sorted(history.paths_at_cutoff)
        if _NAME_PART.search(PurePosixPath(path).stem)
    ]
    # Includes files that the snapshot dropped, that were deleted, or that were added later.
    known_paths = {*history.paths_at_cutoff, *history.change_counts}
    known_paths |= {change.path for commit in history.held_out_commits for change in commit.changes}
    parts = Counter(
        part.lower() for path in paths for part in _NAME_PART.findall(PurePosixPath(path).stem)
    )
    vocabulary = sorted(parts)
    for real in rng.sample(paths, min(_MAX_PAIRS, len(paths))):
        invented = _invent_path(PurePosixPath(real), vocabulary, known_paths, rng)
        if invented is None:
            continue
        known_paths.add(invented)
        for path, answer in ((real, 0), (invented, 1)):
            yield ChoiceItem(
                task=TASK,
                item_id=f"{TASK}/{path}",
                cluster=real,
                prefix=(
                    f"Question: Does the project {history.project} have a file "
                    f"`{path}`?\nAnswer (yes or no):"
                ),
                choices=(" yes", " no"),
                answer=answer,
                heuristic_baselines={
                    "always yes": float(answer == 0),
                    "always no": float(answer == 1),
                },
            )


def _invent_path(
    real: PurePosixPath, vocabulary: list[str], known_paths: set[str], rng: random.Random
) -> str | None:
    """Replace one part of a file name by a part of another; None if all attempts exist."""
    for _ in range(_MAX_ATTEMPTS):
        part = rng.choice(list(_NAME_PART.finditer(real.stem)))
        stem = f"{real.stem[: part.start()]}{rng.choice(vocabulary)}{real.stem[part.end() :]}"
        path = str(real.with_name(stem + real.suffix))
        if path not in known_paths:
            return path
    return None
