"""Kedro dataset of a table of Parquet parts: saves streams, loads lazily."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from kedro.io import AbstractDataset
from kedro_datasets._typing import TablePreview

from the_block_llm import schemas
from the_block_llm.datasets.object_store import StorageLocation, resolve_location
from the_block_llm.datasets.parquet_table import ParquetTable, save_table, table_exists

_PREVIEW_CHARACTERS = 200


class ParquetTableDataset(
    AbstractDataset[Iterable[pa.RecordBatch | pa.Table | StorageLocation], ParquetTable]
):
    """A table with one of the schemas in :mod:`the_block_llm.schemas`.

    ``save`` accepts any iterable of record batches, tables or existing part files and consumes it
    while writing, so a node may return a generator of any length. ``load`` returns a
    :class:`~the_block_llm.datasets.parquet_table.ParquetTable`, which reads on demand.
    """

    def __init__(
        self,
        *,
        filepath: str,
        table: str,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Initialize the dataset.

        Args:
            filepath: Folder of the table, relative to the project or in an object store.
            table: Name of its schema, for example ``COMMITS``.
            credentials: fsspec options of the object store.
            metadata: Metadata for Kedro-Viz.
        """
        self._folder = resolve_location(filepath, credentials)
        self._filepath = self._folder  # attribute that Kedro-Viz displays
        self._table = table
        self._schema: pa.Schema = getattr(schemas, table)
        self.metadata = metadata

    def load(self) -> ParquetTable:
        return ParquetTable(self._folder).verify()

    def save(self, data: Iterable[pa.RecordBatch | pa.Table | StorageLocation]) -> None:
        save_table(self._folder, self._schema, data)

    def preview(self, nrows: int = 20) -> TablePreview:
        """Return the first rows, with long texts truncated."""
        rows = ParquetTable(self._folder).head(nrows).to_pylist()
        return TablePreview(
            {
                "index": list(range(len(rows))),
                "columns": list(self._schema.names),
                "data": [[_preview_text(value) for value in row.values()] for row in rows],
            }
        )

    def statistics(self) -> dict[str, int]:
        """Return the number of rows and columns and the stored size, without reading rows."""
        table = ParquetTable(self._folder)
        return {
            "rows": table.num_rows,
            "columns": len(self._schema),
            "file_size": table.num_bytes,
        }

    def _exists(self) -> bool:
        return table_exists(self._folder)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._folder.as_posix(), "table": self._table}


def _preview_text(value: Any) -> str:
    # Truncate lists before formatting: formatting all ids of a long row is slow.
    text = str(value[:_PREVIEW_CHARACTERS] if isinstance(value, list) else value)
    return text if len(text) <= _PREVIEW_CHARACTERS else f"{text[:_PREVIEW_CHARACTERS]}…"
