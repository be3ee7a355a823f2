"""Does this file exist? For half of them the right answer is that there is none."""

import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import TwoTimes

TASK: Final = "exists_or_not"
_MOST_PAIRS: Final = 400
_TRIES: Final = 20
_PART: Final = re.compile(r"[A-Za-z]{3,}")


def exists_or_not(times: TwoTimes, seed: int) -> Iterator[ChoiceItem]:
    """Ask about real files and invented ones, in pairs, in the same words.

    An invented name has the folder of its real twin and consists of parts of names that
    exist, so that only knowing the project tells them apart. A model that always says yes, or
    always no, is right half the time.
    """
    source = random.Random(f"{seed}/{TASK}")  # noqa: S311
    paths = [path for path in sorted(times.paths_before) if _PART.search(PurePosixPath(path).stem)]
    # Also what was left out of the snapshot, removed long ago or added later.
    existed = {*times.paths_before, *times.times_changed}
    existed |= {change.path for commit in times.later for change in commit.changes}
    parts = Counter(
        part.lower() for path in paths for part in _PART.findall(PurePosixPath(path).stem)
    )
    vocabulary = sorted(parts)
    for real in source.sample(paths, min(_MOST_PAIRS, len(paths))):
        invented = _invent(PurePosixPath(real), vocabulary, existed, source)
        if invented is None:
            continue
        existed.add(invented)
        for path, answer in ((real, 0), (invented, 1)):
            yield ChoiceItem(
                task=TASK,
                item_id=f"{TASK}/{path}",
                cluster=real,
                prefix=(
                    f"Question: Does the project {times.project} have a file "
                    f"`{path}`?\nAnswer (yes or no):"
                ),
                choices=(" yes", " no"),
                answer=answer,
                tricks={
                    "always yes": float(answer == 0),
                    "always no": float(answer == 1),
                },
            )


def _invent(
    real: PurePosixPath, vocabulary: list[str], existed: set[str], source: random.Random
) -> str | None:
    """Replace one part of the file's name by a part of another file's; none if that exists."""
    for _ in range(_TRIES):
        place = source.choice(list(_PART.finditer(real.stem)))
        stem = f"{real.stem[: place.start()]}{source.choice(vocabulary)}{real.stem[place.end() :]}"
        path = str(real.with_name(stem + real.suffix))
        if path not in existed:
            return path
    return None
