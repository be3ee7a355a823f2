"""Map-style PyTorch datasets over packed rows."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import Dataset

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.pipelines.qlora_train.data.sample_order import PADDING_INDEX

_COLUMNS = ("input_ids", "labels_mask", "segment_lengths")
# Two tokens, neither a target: no contribution to loss or gradient.
_PADDING_ROW: Final = {
    "input_ids": np.zeros(2, np.int32),
    "labels_mask": np.zeros(2, np.bool_),
    "segment_lengths": np.array([2], np.int32),
}


class RowDataset(Dataset[dict[str, np.ndarray]]):
    """Rows of the schema ``ROWS``, held in memory as Arrow columns: 5 bytes per token."""

    def __init__(self, rows: ParquetTable, max_rows: int | None = None) -> None:
        """Read the rows into memory.

        Rows without a target are dropped: their loss would be reported as 0.

        Args:
            rows: The table.
            max_rows: Take only this many rows, evenly spaced over the table.
        """
        table = rows.table((*_COLUMNS, "stage"))
        has_target = pa.array([bool(np.any(mask)) for mask in _numpy_lists(table["labels_mask"])])
        self.rows_without_target = table.num_rows - int(pc.sum(has_target).as_py() or 0)
        if self.rows_without_target:
            table = table.filter(has_target)
        if max_rows is not None and max_rows < table.num_rows:
            table = table.take(np.linspace(0, table.num_rows - 1, max_rows).round().astype(int))
        self._table = table.combine_chunks()
        self.tokens: np.ndarray[Any, Any] = np.array(
            [len(ids) for ids in _numpy_lists(self._table["input_ids"])], np.int64
        )
        """Tokens of each row, shape ``(rows,)``."""
        self.stages: np.ndarray[Any, Any] = np.asarray(self._table["stage"].to_numpy())
        """Curriculum stage of each row, shape ``(rows,)``; 0 without a curriculum."""

    @property
    def trained_tokens(self) -> int:
        """Number of targets in all rows."""
        return int(sum(int(mask.sum()) for mask in _numpy_lists(self._table["labels_mask"])))

    @property
    def longest_row_tokens(self) -> int:
        return int(self.tokens.max(initial=0))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: _to_numpy(self._table[name][index]) for name in _COLUMNS}


class OrderedDataset(Dataset[dict[str, np.ndarray]]):
    """The rows of all epochs of a run, in the order in which they are trained on."""

    def __init__(self, rows: RowDataset, indices: np.ndarray[Any, Any]) -> None:
        """Reorder ``rows``.

        Args:
            rows: The rows.
            indices: Index into ``rows`` for each sample; ``PADDING_INDEX`` is a padding row.
        """
        self._rows = rows
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        index = int(self._indices[position])
        return dict(_PADDING_ROW) if index == PADDING_INDEX else self._rows[index]


def _numpy_lists(column: pa.ChunkedArray) -> Iterator[np.ndarray[Any, Any]]:
    for scalar in column:
        yield _to_numpy(scalar)


def _to_numpy(scalar: Any) -> np.ndarray[Any, Any]:
    return np.asarray(scalar.values.to_numpy(zero_copy_only=False))
