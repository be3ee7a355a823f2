"""Rows gathered into Arrow batches of bounded size."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

_BATCH_BYTES: Final = 2 << 20
_BATCH_ROWS: Final = 4096

Row = tuple[Any, ...]


class RowBatches:
    """Rows that wait until they are enough for a record batch."""

    def __init__(self, schema: pa.Schema, finish: Callable[[list[Row]], list[Row]]) -> None:
        """Gather rows of ``schema``; ``finish`` lays the last hand at those of a batch."""
        self._schema = schema
        self._finish = finish
        self._n_bytes = 0
        self.waiting: list[Row] = []
        self.n_batches = 0
        """How many batches were given out."""

    @property
    def is_full(self) -> bool:
        """True where what waits is enough for a batch."""
        return self._n_bytes >= _BATCH_BYTES or len(self.waiting) >= _BATCH_ROWS

    def extend(self, rows: Sequence[Row], n_bytes: int) -> None:
        """Add rows, of each one value a column (strings may be UTF-8 bytes).

        ``n_bytes`` is how much of them is text.
        """
        self.waiting += rows
        self._n_bytes += n_bytes

    def rest(self) -> pa.RecordBatch | None:
        """Return what waits as a batch, None where nothing does."""
        rows, self.waiting, self._n_bytes = self.waiting, [], 0
        if not rows:
            return None
        self.n_batches += 1
        return _batch(self._schema, self._finish(rows))


def batches(
    schema: pa.Schema,
    rows: Iterable[Row],
    text_column: int,
    finish: Callable[[list[Row]], list[Row]],
) -> Iterator[pa.RecordBatch]:
    """Yield ``rows`` as record batches.

    Args:
        schema: Of the table.
        rows: Of each one value a column; strings may be UTF-8 bytes.
        text_column: Index of the column whose values are large.
        finish: Last hand at the rows of a batch, together.
    """
    gathered = RowBatches(schema, finish)
    for row in rows:
        gathered.extend((row,), len(row[text_column] or ""))
        if gathered.is_full and (batch := gathered.rest()) is not None:
            yield batch
    if (batch := gathered.rest()) is not None:
        yield batch


def _batch(schema: pa.Schema, rows: Sequence[Row]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch(
        [_array(list(c), f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
    )


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        # Through binary, so that UTF-8 bytes from git need not become str and bytes again.
        return pa.array(values, pa.binary()).cast(kind)
    return pa.array(values, kind)
