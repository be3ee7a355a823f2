"""Single Parquet files: how every part is written and opened, wherever it lies."""

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.errors import TableError

_ROW_GROUP_BYTES: Final = 8 * 1024 * 1024  # what a reader has to hold at a time


def write_parquet(
    sink: Path | IO[bytes], schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> None:
    """Write the rows as one zstd Parquet file."""
    # Of token ids a dictionary is larger than what zstd makes of them, and takes longer.
    with_dictionary = [field.name for field in schema if not pa.types.is_list(field.type)]
    with pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=with_dictionary
    ) as writer:
        group: list[pa.RecordBatch] = []
        n_bytes = 0
        for batch in batches:
            group.append(batch)
            n_bytes += batch.nbytes
            if n_bytes >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group, schema))
                group, n_bytes = [], 0
        if group:
            writer.write_table(pa.Table.from_batches(group, schema))


def open_parquet(part: StorageLocation) -> Any:
    """A ``pyarrow.parquet.ParquetFile`` of the part; use it as a context."""
    if isinstance(part, Path):
        return pq.ParquetFile(part)
    # Neighbouring columns are then asked for in one request instead of one each.
    return pq.ParquetFile(part.open(), pre_buffer=True)


def row_groups_with(reader: Any, column: str, value: str) -> Iterator[tuple[int | None, int]]:
    """Every row group and its rows; none in place of its number where it cannot hold the value."""
    # By its path: a list before it is several columns of the file.
    at = next(n for n in range(len(reader.schema)) if reader.schema.column(n).path == column)
    for group in range(reader.metadata.num_row_groups):
        facts = reader.metadata.row_group(group)
        range_of = facts.column(at).statistics
        may_hold = (
            range_of is None or not range_of.has_min_max or range_of.min <= value <= range_of.max
        )
        yield group if may_hold else None, facts.num_rows


def checked_rows(part: StorageLocation, schema: pa.Schema, table: object) -> int:
    """Rows of a finished part that is to belong to ``table``.

    Raises:
        TableError: It has another schema.
    """
    with open_parquet(part) as reader:
        if not reader.schema_arrow.equals(_as_parquet_keeps(schema)):
            raise TableError(f"The part {part} has another schema than the table {table}.")
        return int(reader.metadata.num_rows)


@functools.lru_cache(maxsize=16)
def _as_parquet_keeps(schema: pa.Schema) -> pa.Schema:
    # Parquet has no seconds: they are written, and read again, as milliseconds.
    for index, field in enumerate(schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "s":
            schema = schema.set(index, field.with_type(pa.timestamp("ms", tz=field.type.tz)))
    return schema
