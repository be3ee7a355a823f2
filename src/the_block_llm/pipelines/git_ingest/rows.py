"""Rows gathered into Arrow batches of bounded size."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

_BATCH_BYTES: Final = 4 << 20
_BATCH_ROWS: Final = 4096

Row = tuple[Any, ...]


def batches(
    schema: pa.Schema,
    rows: Iterable[Row],
    text_column: int,
    finish: Callable[[list[Row]], list[Row]],
) -> Iterator[pa.RecordBatch]:
    """Yield ``rows`` as record batches of at most some megabytes of text.

    Args:
        schema: Of the table.
        rows: One value for each column, in the schema's order; strings may be UTF-8 bytes.
        text_column: Index of the column whose values are large.
        finish: Last hand at the rows of a batch, together.
    """
    gathered: list[Row] = []
    n_bytes = 0
    for row in rows:
        gathered.append(row)
        text = row[text_column]
        n_bytes += len(text) if text is not None else 0
        if n_bytes >= _BATCH_BYTES or len(gathered) >= _BATCH_ROWS:
            yield _batch(schema, finish(gathered))
            gathered, n_bytes = [], 0
    if gathered:
        yield _batch(schema, finish(gathered))


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
