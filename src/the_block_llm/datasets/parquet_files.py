"""Write and open single Parquet files, the parts of tables."""

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.errors import StorageError, TableError, TableReplacedError
from the_block_llm.files.checksums import ChecksumFile

_ROW_GROUP_BYTES: Final = 8 * 1024 * 1024  # memory of a reader


def write_parquet(
    sink: IO[bytes] | ChecksumFile, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> None:
    """Write record batches to one Parquet file with zstd compression."""
    # For token ids, dictionary encoding is larger than zstd alone, and slower.
    with_dictionary = [field.name for field in schema if not pa.types.is_list(field.type)]
    with pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=with_dictionary
    ) as writer:
        row_group: list[pa.RecordBatch] = []
        n_bytes = 0
        for batch in batches:
            row_group.append(batch)
            n_bytes += batch.nbytes
            if n_bytes >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(row_group, schema))
                row_group, n_bytes = [], 0
        if row_group:
            writer.write_table(pa.Table.from_batches(row_group, schema))


def open_parquet(part: StorageLocation) -> Any:
    """Open a part as ``pyarrow.parquet.ParquetFile``, to be used as a context manager.

    Raises:
        TableReplacedError: The part was removed since the table was opened.
    """
    try:
        if isinstance(part, Path):
            return pq.ParquetFile(part)
        # Coalesces reads of adjacent columns into one request.
        return pq.ParquetFile(part.open(), pre_buffer=True)
    except (FileNotFoundError, StorageError) as error:
        if part.exists():
            raise
        raise table_replaced(part.parent) from error


def table_replaced(folder: StorageLocation) -> TableReplacedError:
    """Return the error for a table of which a run has removed a part since it was opened."""
    return TableReplacedError(
        f"The table {folder} was replaced by a run while it was read. Repeat the command "
        "or the run, and it reads the new table."
    )


def _open_file(part: StorageLocation) -> Any:
    if isinstance(part, Path):
        return pa.OSFile(str(part))
    return pa.PythonFile(part.open(), mode="r")


def row_groups_containing(reader: Any, column: str, value: str) -> Iterator[tuple[int | None, int]]:
    """Yield the number of each row group and its rows.

    The number is None if the statistics exclude that ``column`` contains ``value``.
    """
    # Looked up by path: a nested column before it occupies several leaf columns.
    column_index = next(
        n for n in range(len(reader.schema)) if reader.schema.column(n).path == column
    )
    for group in range(reader.metadata.num_row_groups):
        metadata = reader.metadata.row_group(group)
        statistics = metadata.column(column_index).statistics
        may_contain = (
            statistics is None
            or not statistics.has_min_max
            or statistics.min <= value <= statistics.max
        )
        yield group if may_contain else None, metadata.num_rows


def validate_part(part: StorageLocation, schema: pa.Schema, table: object) -> tuple[int, int]:
    """Check the schema of a part file.

    Args:
        part: The part file.
        schema: Schema of the table.
        table: Name of the table, for the error message.

    Returns:
        Its number of rows, and its size in bytes.

    Raises:
        TableError: The part has another schema.
    """
    with _open_file(part) as file, pq.ParquetFile(file) as reader:
        if not reader.schema_arrow.equals(_as_stored(schema)):
            raise TableError(
                f"The schema of the part {part} differs from that of the table {table}."
            )
        return int(reader.metadata.num_rows), int(file.size())


@functools.lru_cache(maxsize=16)
def _as_stored(schema: pa.Schema) -> pa.Schema:
    # Parquet has no unit of seconds: such timestamps are stored as milliseconds.
    for index, field in enumerate(schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "s":
            schema = schema.set(index, field.with_type(pa.timestamp("ms", tz=field.type.tz)))
    return schema
