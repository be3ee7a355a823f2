"""The sample order of a run, computed before it starts.

The order depends only on the seed and the rows, not on the micro-batch size or the number of
processes. A run that is resumed, reduces its micro-batch after running out of memory, or is
distributed sees the same rows in the same steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

PADDING_INDEX: Final = -1
"""Index of a padding row; padding rows complete the last batch of an epoch."""


@dataclass(frozen=True)
class SampleOrder:
    """Row indices of a run, in training order."""

    indices: np.ndarray[Any, Any]
    """Row index of each sample, or ``PADDING_INDEX``; shape ``(steps * batch_rows,)``."""
    batch_rows: int
    """Samples of one optimizer step."""
    epoch_end_steps: tuple[int, ...]
    """The last optimizer step of each epoch; with a curriculum, of each epoch of each stage."""
    stage_end_steps: dict[int, int]
    """The last optimizer step of each curriculum stage."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return len(self.indices) // self.batch_rows


def make_sample_order(
    stages: Sequence[int] | np.ndarray[Any, Any],
    epochs: int | Mapping[int, int],
    batch_rows: int,
    seed: int,
) -> SampleOrder:
    """Shuffle the rows of each epoch, one curriculum stage after the other.

    Args:
        stages: Curriculum stage of each row, shape ``(rows,)``. Stages are trained in
            ascending order, each for all its epochs; rows of stage 0 have no stage and are
            trained with the last one.
        epochs: Epochs of every stage, or epochs by stage (1 for a stage that is missing).
        batch_rows: Rows of one optimizer step; an epoch's last batch is padded to this size.
        seed: Seed of the shuffling.

    >>> make_sample_order([0, 0, 0], epochs=1, batch_rows=2, seed=0).epoch_end_steps
    (2,)
    """
    row_stages = np.asarray(stages)
    last_stage = int(row_stages.max(initial=0))
    row_stages = np.where(row_stages == 0, last_stage, row_stages)
    batches: list[np.ndarray[Any, Any]] = []
    epoch_end_steps: list[int] = []
    stage_end_steps: dict[int, int] = {}
    steps = 0
    for stage in sorted({int(stage) for stage in row_stages}):
        members = np.flatnonzero(row_stages == stage)
        padding = np.full(-len(members) % batch_rows, PADDING_INDEX)
        stage_epochs = epochs if isinstance(epochs, int) else epochs.get(stage, 1)
        for epoch in range(stage_epochs):
            shuffled = np.random.default_rng([seed, stage, epoch]).permutation(members)
            batches += [shuffled, padding]
            steps += (len(members) + len(padding)) // batch_rows
            epoch_end_steps.append(steps)
        stage_end_steps[stage] = steps
    return SampleOrder(
        indices=np.concatenate(batches) if batches else np.empty(0, np.int64),
        batch_rows=batch_rows,
        epoch_end_steps=tuple(epoch_end_steps),
        stage_end_steps=stage_end_steps,
    )
