"""Builds Arrow record batches of bounded size from rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

_BATCH_BYTES: Final = 2 << 20
_BATCH_ROWS: Final = 4096

Row = tuple[Any, ...]
"""One value per column; strings may be UTF-8 bytes."""


class RecordBatchBuilder:
    """Collects rows until there are enough for a record batch."""

    def __init__(self, schema: pa.Schema, finalize: Callable[[list[Row]], list[Row]]) -> None:
        """Collect rows of ``schema``; ``finalize`` transforms the rows of each batch together."""
        self._schema = schema
        self._finalize = finalize
        self._n_bytes = 0
        self.pending: list[Row] = []
        self.n_batches = 0
        """Batches returned so far."""

    @property
    def is_full(self) -> bool:
        """Whether the pending rows are enough for a batch."""
        return self._n_bytes >= _BATCH_BYTES or len(self.pending) >= _BATCH_ROWS

    def extend(self, rows: Sequence[Row], n_bytes: int) -> None:
        """Add rows that hold ``n_bytes`` of text."""
        self.pending += rows
        self._n_bytes += n_bytes

    def flush(self) -> pa.RecordBatch | None:
        """Return the pending rows as a batch, or None if there are none."""
        rows, self.pending, self._n_bytes = self.pending, [], 0
        if not rows:
            return None
        self.n_batches += 1
        return _to_record_batch(self._schema, self._finalize(rows))


def record_batches(
    schema: pa.Schema,
    rows: Iterable[Row],
    text_column: int,
    finalize: Callable[[list[Row]], list[Row]],
) -> Iterator[pa.RecordBatch]:
    """Yield ``rows`` as record batches.

    Args:
        schema: Schema of the table.
        rows: Rows of the table.
        text_column: Index of the column whose values are large.
        finalize: Transforms the rows of each batch together.
    """
    builder = RecordBatchBuilder(schema, finalize)
    for row in rows:
        builder.extend((row,), len(row[text_column] or ""))
        if builder.is_full and (batch := builder.flush()) is not None:
            yield batch
    if (batch := builder.flush()) is not None:
        yield batch


def _to_record_batch(schema: pa.Schema, rows: Sequence[Row]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch(
        [_to_array(list(c), f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
    )


def _to_array(values: list[Any], data_type: pa.DataType) -> pa.Array:
    if pa.types.is_string(data_type):
        # Through binary: UTF-8 bytes from git need not become str and bytes again.
        return pa.array(values, pa.binary()).cast(data_type)
    return pa.array(values, data_type)
