"""Tables as folders of Parquet parts, written part by part and committed by their manifest.

A table is a folder holding ``manifest.json`` and the part files it names. A save writes
new parts beside the old ones and then replaces the manifest in one step, so a reader sees
the old table or the new one and never half of either; files that no manifest names are
removed afterwards. The folder may lie in an object store. Nothing here knows Kedro: training
processes read these tables too.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.datasets.parquet_files import open_parquet, row_groups_with, write_parquet
from the_block_llm.datasets.part_writers import (
    UNFINISHED,
    LocalPartWriter,
    ObjectStorePartWriter,
    PartWriter,
)
from the_block_llm.errors import StorageError, TableError

MANIFEST_NAME: Final = "manifest.json"
# Large enough that compression and column statistics pay, small enough that a part of
# patches stays far below the memory of any machine that can train.
_PART_BYTES: Final = 64 * 1024 * 1024
_READ_ROWS: Final = 1024


class ParquetTable:
    """A table on disk, opened lazily: holding this object holds no rows."""

    def __init__(self, folder: StorageLocation) -> None:
        """Open the table in ``folder``.

        Raises:
            TableError: There is no manifest, it is damaged, or a part it names is gone.
            StorageError: The folder lies in a store that cannot be reached.
        """
        self.folder = folder
        self.manifest = _read_manifest(self.folder)
        self.parts: Sequence[StorageLocation] = [
            self.folder / part["name"] for part in self.manifest["parts"]
        ]
        sizes = self._sizes()
        missing = [part.name for part in self.parts if part.name not in sizes]
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
        """Of all parts together, as they are stored."""
        sizes = self._sizes()
        return sum(sizes[part.name] for part in self.parts)

    @property
    def meta(self) -> dict[str, Any]:
        """What the writer recorded about the table as a whole."""
        return dict(self.manifest["meta"])

    @property
    def schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(self.manifest["schema"])))

    def batches(
        self, columns: Sequence[str] | None = None, batch_rows: int = _READ_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, at most ``batch_rows`` at a time."""
        for part in self.parts:
            with open_parquet(part) as reader:
                yield from reader.iter_batches(
                    batch_size=batch_rows, columns=None if columns is None else list(columns)
                )

    def batches_with(
        self,
        column: str,
        value: str,
        columns: Sequence[str],
        batch_rows: int = _READ_ROWS,
        rows: range | None = None,
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield batches in order, without reading where ``column`` never has that value.

        Args:
            column: Of text.
            value: What is sought in it.
            columns: What is read.
            batch_rows: Most rows of a batch.
            rows: Numbers of the rows that are wanted, by default all; others are yielded where
                they share a row group with these.

        Yields:
            The number of the batch's first row in the table, and the batch. Not every row in it
            has the value.
        """
        wanted = range(self.num_rows) if rows is None else rows
        begin = 0
        for part, facts in zip(self.parts, self.manifest["parts"], strict=True):
            if begin >= wanted.stop or begin + facts["rows"] <= wanted.start:
                begin += facts["rows"]
                continue
            with open_parquet(part) as reader:
                for group, n_rows in row_groups_with(reader, column, value):
                    if group is None or begin >= wanted.stop or begin + n_rows <= wanted.start:
                        begin += n_rows
                        continue
                    for batch in reader.iter_batches(batch_rows, [group], list(columns)):
                        yield begin, batch
                        begin += batch.num_rows

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows in order as dictionaries."""
        for batch in self.batches(columns, batch_rows=256):
            yield from batch.to_pylist()

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the whole table, or some of its columns, into memory."""
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        return pa.Table.from_batches(
            [batch.cast(schema) for batch in self.batches(columns, 65_536)], schema=schema
        )

    def head(self, n_rows: int) -> pa.Table:
        """Read the first ``n_rows`` rows without touching the rest."""
        taken: list[pa.RecordBatch] = []
        left = n_rows
        for batch in self.batches(batch_rows=max(1, min(n_rows, _READ_ROWS))):
            if left <= 0:
                break
            taken.append(batch.slice(0, left).cast(self.schema))
            left -= taken[-1].num_rows
        return pa.Table.from_batches(taken, schema=self.schema)

    def ensure_local(self, folder: Path) -> Path:
        """Where the table can be read as files: where it is, or copied into ``folder``.

        A part that an earlier call has copied is not fetched again.

        Raises:
            StorageError: ``folder`` cannot be written, or the store not be reached.
        """
        if isinstance(self.folder, Path):
            return self.folder
        sizes = self._sizes()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part in self.parts:
                copy = folder / part.name
                if not copy.exists() or copy.stat().st_size != sizes[part.name]:
                    unfinished = folder / f".{part.name}{UNFINISHED}"
                    part.get_file(unfinished)  # type: ignore[union-attr]  # in the table's store
                    unfinished.replace(copy)
        except OSError as error:
            raise _storage_error(folder, error) from error
        write_text_atomically(folder / MANIFEST_NAME, json.dumps(self.manifest, indent=1))
        keep = {part.name for part in self.parts}
        for path in folder.glob("part-*.parquet"):
            if path.name not in keep:
                path.unlink(missing_ok=True)
        return folder

    def _sizes(self) -> dict[str, int]:
        if isinstance(self.folder, StorePath):
            return self.folder.sizes()
        with os.scandir(self.folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries}


def table_exists(folder: StorageLocation) -> bool:
    """True where ``folder`` holds a complete table."""
    try:
        ParquetTable(folder)
    except TableError:
        return False
    return True


def write_part(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write one zstd Parquet file on this machine, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
    try:
        write_parquet(unfinished, schema, batches)
        unfinished.replace(path)
    except OSError as error:
        raise _storage_error(path.parent, error) from error
    finally:
        unfinished.unlink(missing_ok=True)


def save_table(
    folder: StorageLocation,
    schema: pa.Schema,
    items: Iterable[pa.RecordBatch | pa.Table | StorageLocation],
    meta: Mapping[str, Any] | None = None,
    part_bytes: int = _PART_BYTES,
) -> ParquetTable:
    """Replace the table in ``folder`` by ``items``, in order.

    Args:
        folder: Where the table lives.
        schema: Of every batch and every part; a batch that differs is an error.
        items: Rows to write, or paths of finished part files, which are hard-linked
            (copied where the file system cannot link) instead of being read. A part that
            already lies in ``folder`` is kept as it is.
        meta: JSON values recorded in the manifest.
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
                parts.append(writer.adopt(item))
                continue
            for batch in item.to_batches() if isinstance(item, pa.Table) else [item]:
                pending.append(_conform(batch, schema, folder))
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
            "meta": dict(meta or {}),
        }
        write_text_atomically(folder / MANIFEST_NAME, json.dumps(manifest, indent=1))
    except BaseException as error:
        # The old manifest still names the old parts; only this save's files go.
        if writer is not None:
            with contextlib.suppress(StorageError):  # a store may have gone away
                writer.undo()
        if isinstance(error, OSError):
            raise _storage_error(folder, error) from error
        raise
    writer.sweep({part["name"] for part in parts})
    return ParquetTable(folder)


def write_text_atomically(path: StorageLocation, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader sees the old file or the new, whole.

    Raises:
        StorageError: The folder cannot be written.
    """
    if isinstance(path, StorePath):
        path.put_bytes(text.encode())
        return
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise _storage_error(path.parent, error) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _conform(batch: pa.RecordBatch, schema: pa.Schema, folder: StorageLocation) -> pa.RecordBatch:
    if batch.schema.equals(schema):
        return batch
    if batch.schema.names != schema.names:
        raise TableError(
            f"Rows for {folder} have the columns {batch.schema.names}, expected {schema.names}."
        )
    try:
        return batch.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise TableError(f"Rows for {folder} do not fit its schema: {error}") from error


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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(
            f"The manifest {path} cannot be read ({error}). Delete the folder and run the "
            "pipeline that writes it again."
        ) from error
    return manifest


def _storage_error(folder: StorageLocation, error: OSError) -> StorageError:
    return StorageError(
        f"Cannot write to {folder}: {error.strerror or error}. Free some space or make the "
        "folder writable, then run again; what was there before is unchanged."
    )
