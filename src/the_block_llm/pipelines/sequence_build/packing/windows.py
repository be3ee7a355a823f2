"""Packing windows: consecutive runs of the table ``documents``, of bounded size.

Windows depend on the table alone, and no row holds chunks of two windows. So windows can be packed
in any order and by any number of workers, and the rows are the same.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.pipelines.sequence_build.params import RowShape
from the_block_llm.schemas import Split

_MAX_WINDOW_TOKENS: Final = 16 * 1024 * 1024  # 80 MB of ids and targets in memory


@dataclass(frozen=True)
class Window:
    """The documents of one split and curriculum stage within a run of the table."""

    split: Split
    stage: int
    rows: range
    """Of the table ``documents``; rows of other splits and stages may be among them."""
    excluded: npt.NDArray[np.bool_] | None
    """Whether each of ``rows`` is excluded by the mix; None: none is."""

    def included(self, start: int, n_rows: int) -> npt.NDArray[np.bool_]:
        """Return whether each of ``n_rows`` rows of the table, from ``start``, may be packed.

        >>> Window("train", 0, range(2, 5), np.array([False, True, False])).included(1, 5)
        array([False,  True, False,  True, False])
        """
        mask = np.zeros(n_rows, np.bool_)
        first, stop = max(start, self.rows.start), min(start + n_rows, self.rows.stop)
        if first < stop:
            excluded = self.excluded
            inside = slice(first - self.rows.start, stop - self.rows.start)
            mask[first - start : stop - start] = True if excluded is None else ~excluded[inside]
        return mask


@dataclass
class _OpenWindow:
    first: int | None = None
    last: int = 0
    tokens: int = 0


def plan_windows(
    documents: ParquetTable,
    split: Split,
    shape: RowShape,
    excluded: npt.NDArray[np.bool_] | None = None,
) -> list[Window]:
    """Divide the documents of a split into windows.

    Args:
        documents: The table ``documents``; only its short columns are read.
        split: Which split.
        shape: Of the rows.
        excluded: True for each row of the table that the mix excludes; None: no row.

    Returns:
        Windows stage by stage, each stage in the order of the table.
    """
    stages = range(1, len(shape.stage_tokens) + 1) if split == "train" else ()
    closed: dict[int, list[Window]] = {stage: [] for stage in stages or (0,)}
    growing = {stage: _OpenWindow() for stage in closed}

    def close(stage: int) -> None:
        window, growing[stage] = growing[stage], _OpenWindow()
        if window.first is not None:
            rows = range(window.first, window.last + 1)
            in_window = None if excluded is None else excluded[rows.start : rows.stop]
            closed[stage].append(Window(split, stage, rows, in_window))

    start = 0
    for batch in documents.batches(["split", "stage", "n_tokens"], 65_536):
        is_wanted = pc.equal(batch["split"], split).to_numpy(zero_copy_only=False)
        if excluded is not None:
            is_wanted &= ~excluded[start : start + len(batch)]
        chosen = np.flatnonzero(is_wanted)
        lengths = batch["n_tokens"].to_numpy()[chosen].tolist()
        stage_of_row = batch["stage"].to_numpy()[chosen].tolist()
        for row, stage, n_tokens in zip(chosen.tolist(), stage_of_row, lengths, strict=True):
            if stage not in growing:
                continue
            window = growing[stage]
            window.first = start + row if window.first is None else window.first
            window.last = start + row
            window.tokens += n_tokens
            if window.tokens >= _MAX_WINDOW_TOKENS:
                close(stage)
        start += len(batch)
    for stage in closed:
        close(stage)
    return [window for stage in closed for window in closed[stage]]
