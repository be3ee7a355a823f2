"""Tables as folders of Parquet parts, committed atomically by a manifest.

A table is a folder that contains ``manifest.json`` and the part files that it lists. A save writes
new parts next to the old ones and then replaces the manifest atomically, so a reader sees either
the old table or the new one; unreferenced files are removed afterwards. The folder may be in an
object store. Does not import Kedro: training processes read these tables too.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.datasets.parquet_files import open_parquet, row_groups_containing, write_parquet
from the_block_llm.datasets.part_writers import (
    TEMP_SUFFIX,
    LocalPartWriter,
    ObjectStorePartWriter,
    PartWriter,
)
from the_block_llm.errors import StorageError, TableError
from the_block_llm.os_errors import explain

MANIFEST_NAME: Final = "manifest.json"
# Large enough for effective compression and column statistics, small enough that a part of
# patches is far below the memory of any machine that can train.
_PART_BYTES: Final = 64 * 1024 * 1024
_READ_BATCH_ROWS: Final = 1024


class ParquetTable:
    """A stored table, read lazily: the object itself contains no rows."""

    def __init__(self, folder: StorageLocation) -> None:
        """Open the table in ``folder``.

        Raises:
            TableError: The manifest is missing or damaged, or a part is missing.
            StorageError: The folder cannot be read, or its object store is unreachable.
        """
        self.folder = folder
        self.manifest = _read_manifest(self.folder)
        missing = self._missing_parts()
        while missing and (newer := _read_manifest(self.folder)) != self.manifest:
            # A run has replaced the table meanwhile and removed its old parts.
            self.manifest = newer
            missing = self._missing_parts()
        self.parts: Sequence[StorageLocation] = [
            self.folder / part["name"] for part in self.manifest["parts"]
        ]
        if missing:
            raise TableError(
                f"The table {self.folder} lacks {len(missing)} of its {len(self.parts)} parts "
                f"(first: {missing[0]}). Run the pipeline that writes it again."
            )

    @property
    def num_rows(self) -> int:
        return int(sum(part["rows"] for part in self.manifest["parts"]))

    @property
    def num_bytes(self) -> int:
        """Stored size of all parts."""
        sizes = self._sizes()
        return sum(sizes[part.name] for part in self.parts)

    @property
    def schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(self.manifest["schema"])))

    def batches(
        self, columns: Sequence[str] | None = None, batch_rows: int = _READ_BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, at most ``batch_rows`` at a time."""
        for part in self.parts:
            with open_parquet(part) as reader:
                yield from reader.iter_batches(
                    batch_size=batch_rows, columns=None if columns is None else list(columns)
                )

    def batches_containing(
        self,
        column: str,
        value: str,
        columns: Sequence[str],
        batch_rows: int = _READ_BATCH_ROWS,
        rows: range | None = None,
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield batches in order, skipping row groups whose statistics exclude a value.

        Args:
            column: A text column.
            value: The value to look for in it.
            columns: Columns to read.
            batch_rows: Maximum rows per batch.
            rows: Range of row numbers to read, by default all; other rows of the same row groups
                are yielded as well.

        Yields:
            The row number of the batch's first row in the table, and the batch. It may contain
            rows with other values.
        """
        selected = range(self.num_rows) if rows is None else rows
        first_row = 0
        for part, entry in zip(self.parts, self.manifest["parts"], strict=True):
            if first_row >= selected.stop or first_row + entry["rows"] <= selected.start:
                first_row += entry["rows"]
                continue
            with open_parquet(part) as reader:
                for group, n_rows in row_groups_containing(reader, column, value):
                    if (
                        group is None
                        or first_row >= selected.stop
                        or first_row + n_rows <= selected.start
                    ):
                        first_row += n_rows
                        continue
                    for batch in reader.iter_batches(batch_rows, [group], list(columns)):
                        yield first_row, batch
                        first_row += batch.num_rows

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows in order, as dictionaries."""
        for batch in self.batches(columns, batch_rows=256):
            yield from batch.to_pylist()

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the complete table, or some of its columns, into memory."""
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        return pa.Table.from_batches(
            [batch.cast(schema) for batch in self.batches(columns, 65_536)], schema=schema
        )

    def head(self, n_rows: int) -> pa.Table:
        """Read the first ``n_rows`` rows only."""
        batches: list[pa.RecordBatch] = []
        remaining = n_rows
        for batch in self.batches(batch_rows=max(1, min(n_rows, _READ_BATCH_ROWS))):
            if remaining <= 0:
                break
            batches.append(batch.slice(0, remaining).cast(self.schema))
            remaining -= batches[-1].num_rows
        return pa.Table.from_batches(batches, schema=self.schema)

    def ensure_local(self, folder: Path) -> Path:
        """Return a local folder with the table; download it to ``folder`` if it is in a store.

        Parts that an earlier call has downloaded are not downloaded again.

        Raises:
            StorageError: ``folder`` cannot be written, or the store is unreachable.
        """
        if isinstance(self.folder, Path):
            return self.folder
        sizes = self._sizes()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part in self.parts:
                copy = folder / part.name
                if not copy.exists() or copy.stat().st_size != sizes[part.name]:
                    temp_path = folder / f".{part.name}{TEMP_SUFFIX}"
                    part.get_file(temp_path)  # type: ignore[union-attr]  # a StorePath
                    temp_path.replace(copy)
        except OSError as error:
            raise _storage_error(folder, error) from error
        write_text_atomically(folder / MANIFEST_NAME, json.dumps(self.manifest, indent=1))
        referenced = {part.name for part in self.parts}
        for path in folder.glob("part-*.parquet"):
            if path.name not in referenced:
                path.unlink(missing_ok=True)
        return folder

    def _missing_parts(self) -> list[str]:
        sizes = self._sizes()
        return [part["name"] for part in self.manifest["parts"] if part["name"] not in sizes]

    def _sizes(self) -> dict[str, int]:
        if isinstance(self.folder, StorePath):
            return self.folder.sizes()
        sizes = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed by a run in this moment
                    sizes[entry.name] = entry.stat().st_size
        return sizes


def table_exists(folder: StorageLocation) -> bool:
    """Return whether ``folder`` contains a complete table."""
    try:
        ParquetTable(folder)
    except TableError:
        return False
    return True


def write_part(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write one Parquet file to a local path, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_path = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMP_SUFFIX}")
    try:
        write_parquet(temp_path, schema, batches)
        temp_path.replace(path)
    except OSError as error:
        raise _storage_error(path.parent, error) from error
    finally:
        temp_path.unlink(missing_ok=True)


def save_table(
    folder: StorageLocation,
    schema: pa.Schema,
    items: Iterable[pa.RecordBatch | pa.Table | StorageLocation],
    part_bytes: int = _PART_BYTES,
) -> ParquetTable:
    """Replace the table in ``folder`` by ``items``, in order.

    Args:
        folder: Folder of the table.
        schema: Schema of the table; batches are cast to it if their column names match.
        items: Record batches or tables to write, or paths of existing part files, which are
            hard-linked (or copied, if the file system does not support links) instead of being
            read. A part that is already in ``folder`` is reused.
        part_bytes: Uncompressed size at which a part is closed.

    Raises:
        TableError: A batch or part has another schema.
        StorageError: The folder cannot be written.
    """
    parts: list[dict[str, Any]] = []
    pending: list[pa.RecordBatch] = []
    pending_bytes = 0
    writer: PartWriter | None = None
    try:
        if isinstance(folder, StorePath):
            writer = ObjectStorePartWriter(folder, schema)
        else:
            writer = LocalPartWriter(folder, schema, write_part)
        for item in items:
            if isinstance(item, Path | StorePath):
                if pending:
                    parts.append(writer.write(pending))
                    pending, pending_bytes = [], 0
                parts.append(writer.add_file(item))
                continue
            for batch in item.to_batches() if isinstance(item, pa.Table) else [item]:
                pending.append(_cast_to_schema(batch, schema, folder))
                pending_bytes += batch.nbytes
                if pending_bytes >= part_bytes:
                    parts.append(writer.write(pending))
                    pending, pending_bytes = [], 0
        if pending:
            parts.append(writer.write(pending))
        manifest = {
            "format": 1,
            "schema": schema.serialize().to_pybytes().hex(),
            "columns": {field.name: str(field.type) for field in schema},
            "parts": parts,
        }
        write_text_atomically(folder / MANIFEST_NAME, json.dumps(manifest, indent=1))
    except BaseException as error:
        # The old manifest still references the old parts; remove only the files of this save.
        if writer is not None:
            with contextlib.suppress(StorageError):  # the store may be unreachable
                writer.rollback()
        if isinstance(error, OSError):
            raise _storage_error(folder, error) from error
        raise
    writer.remove_unreferenced({part["name"] for part in parts})
    return ParquetTable(folder)


def write_text_atomically(path: StorageLocation, text: str) -> None:
    """Write ``text`` to ``path`` atomically.

    Raises:
        StorageError: The folder cannot be written.
    """
    if isinstance(path, StorePath):
        path.put_bytes(text.encode())
        return
    temp_path = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMP_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temp_path.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temp_path.replace(path)
    except OSError as error:
        raise _storage_error(path.parent, error) from error
    finally:
        temp_path.unlink(missing_ok=True)


def _cast_to_schema(
    batch: pa.RecordBatch, schema: pa.Schema, folder: StorageLocation
) -> pa.RecordBatch:
    if batch.schema.equals(schema):
        return batch
    if batch.schema.names != schema.names:
        raise TableError(
            f"Rows for {folder} have the columns {batch.schema.names}, expected {schema.names}."
        )
    try:
        return batch.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise TableError(f"Rows for {folder} do not match its schema: {error}") from error


def _read_manifest(folder: StorageLocation) -> dict[str, Any]:
    path = folder / MANIFEST_NAME
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != 1:
            raise ValueError(f"format {manifest['format']}")
    except FileNotFoundError:
        raise TableError(
            f"There is no table in {folder}. Run the pipeline that writes it first; "
            "`kedro run` runs them all in order."
        ) from None
    except OSError as error:
        raise StorageError(f"The manifest {path} cannot be read: {explain(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(
            f"The manifest {path} cannot be read ({error}). Delete the folder and run the "
            "pipeline that writes it again."
        ) from error
    return manifest


def _storage_error(folder: StorageLocation, error: OSError) -> StorageError:
    return StorageError(
        f"Cannot write to {folder}: {explain(error)} Then run again; existing data is unchanged."
    )
