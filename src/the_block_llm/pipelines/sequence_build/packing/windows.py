"""Documents that are packed together: runs of the table, of bounded size.

Which documents make a window depends on the table alone, and no row holds pieces of two; so
windows can be packed in any order, by anybody, and make the same rows.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.pipelines.sequence_build.params import RowShape
from the_block_llm.schemas import Split

_WINDOW_TOKENS: Final = 16 * 1024 * 1024  # 80 MB of ids and targets, packed at a time


@dataclass(frozen=True)
class Window:
    """The documents of one split and curriculum stage within a run of the table."""

    split: Split
    stage: int
    rows: range
    """Of the table ``documents``; others may lie in between."""
    left_out: npt.NDArray[np.bool_] | None
    """For each of ``rows`` whether the mix has no room for it; none: it has for all."""

    def holds(self, begin: int, n_rows: int) -> npt.NDArray[np.bool_]:
        """For ``n_rows`` of the table, from number ``begin`` on, whether they may be packed.

        >>> Window("train", 0, range(2, 5), np.array([False, True, False])).holds(1, 5)
        array([False,  True, False,  True, False])
        """
        found = np.zeros(n_rows, np.bool_)
        first, stop = max(begin, self.rows.start), min(begin + n_rows, self.rows.stop)
        if first < stop:
            left_out = self.left_out
            inside = slice(first - self.rows.start, stop - self.rows.start)
            found[first - begin : stop - begin] = True if left_out is None else ~left_out[inside]
        return found


@dataclass
class _Open:
    first: int | None = None
    last: int = 0
    tokens: int = 0


def windows_of(
    documents: ParquetTable,
    split: Split,
    shape: RowShape,
    left_out: npt.NDArray[np.bool_] | None = None,
) -> list[Window]:
    """Divide the documents of a split.

    Args:
        documents: The table ``documents``; only its short columns are read.
        split: Which side of the cut-off.
        shape: Of the rows.
        left_out: True for each row of the table that the mix has no room for; none: no such row.

    Returns:
        Windows stage by stage, each in the order of the table.
    """
    stages = range(1, len(shape.stage_tokens) + 1) if split == "train" else ()
    closed: dict[int, list[Window]] = {stage: [] for stage in stages or (0,)}
    growing = {stage: _Open() for stage in closed}

    def close(stage: int) -> None:
        window, growing[stage] = growing[stage], _Open()
        if window.first is not None:
            rows = range(window.first, window.last + 1)
            here = None if left_out is None else left_out[rows.start : rows.stop]
            closed[stage].append(Window(split, stage, rows, here))

    begin = 0
    for batch in documents.batches(["split", "stage", "n_tokens"], 65_536):
        wanted = pc.equal(batch["split"], split).to_numpy(zero_copy_only=False)
        if left_out is not None:
            wanted &= ~left_out[begin : begin + len(batch)]
        chosen = np.flatnonzero(wanted)
        lengths = batch["n_tokens"].to_numpy()[chosen].tolist()
        of_stage = batch["stage"].to_numpy()[chosen].tolist()
        for row, stage, n_tokens in zip(chosen.tolist(), of_stage, lengths, strict=True):
            if stage not in growing:
                continue
            window = growing[stage]
            window.first = begin + row if window.first is None else window.first
            window.last = begin + row
            window.tokens += n_tokens
            if window.tokens >= _WINDOW_TOKENS:
                close(stage)
        begin += len(batch)
    for stage in closed:
        close(stage)
    return [window for stage in closed for window in closed[stage]]
