"""The order in which a run goes through its rows, fixed before it starts.

The order depends on the seed and the rows alone: neither on how many rows go through the model
together nor on how many processes share them. So a run that was cut off, ran out of memory or
is spread over several processes sees the same rows in the same steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

BLANK: Final = -1
"""A place without a row; it fills up the last step of an epoch."""


@dataclass(frozen=True)
class RowOrder:
    """Which row stands at which place of a run."""

    rows: np.ndarray[Any, Any]
    """Index of the row at each place, ``BLANK`` for none; a step takes ``batch_rows`` places."""
    batch_rows: int
    epoch_ends: tuple[int, ...]
    """Optimizer steps after which an epoch of a stage is complete."""
    stage_ends: dict[int, int]
    """By curriculum stage, the step after which it is complete."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.rows) // self.batch_rows


def order_rows(
    stages: Sequence[int] | np.ndarray[Any, Any],
    epochs: int | Mapping[int, int],
    batch_rows: int,
    seed: int,
) -> RowOrder:
    """Shuffle the rows of each epoch; where rows have stages, finish one before the next.

    Args:
        stages: Curriculum stage of each row, shape ``(rows,)``. Stages are gone through in
            ascending order, each for all its epochs; rows of stage 0 belong to no stage and
            come with the last.
        epochs: How often each row is seen, or how often those of each stage; once where a
            stage has no number.
        batch_rows: Rows of one optimizer step. An epoch's last step is filled with blanks.
        seed: Of the shuffling.

    >>> order_rows([0, 0, 0], epochs=1, batch_rows=2, seed=0).epoch_ends
    (2,)
    """
    given = np.asarray(stages)
    last = int(given.max(initial=0))
    settled = np.where(given == 0, last, given)
    places: list[np.ndarray[Any, Any]] = []
    epoch_ends: list[int] = []
    stage_ends: dict[int, int] = {}
    steps = 0
    for stage in sorted({int(stage) for stage in settled}):
        members = np.flatnonzero(settled == stage)
        blanks = np.full(-len(members) % batch_rows, BLANK)
        times = epochs if isinstance(epochs, int) else epochs.get(stage, 1)
        for epoch in range(times):
            shuffled = np.random.default_rng([seed, stage, epoch]).permutation(members)
            places += [shuffled, blanks]
            steps += (len(members) + len(blanks)) // batch_rows
            epoch_ends.append(steps)
        stage_ends[stage] = steps
    return RowOrder(
        rows=np.concatenate(places) if places else np.empty(0, np.int64),
        batch_rows=batch_rows,
        epoch_ends=tuple(epoch_ends),
        stage_ends=stage_ends,
    )
