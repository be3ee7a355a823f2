"""Tables as folders of Parquet parts, committed atomically by a manifest.

A table is a folder that contains ``_manifest.json`` and the part files that it lists. A save writes
new parts next to the old ones, flushes them to disk and then replaces the manifest atomically, so a
reader sees either the old table or the new one, also after a power failure; unreferenced files are
removed afterwards. Other programs read the folder as a data set of Parquet files: they skip names
that begin with an underscore or a dot. The folder may be in an object store. Does not import Kedro:
training processes read these tables too.

The manifest has size and checksum of each part. Sizes are compared whenever a table is opened. The
checksum of a local part is compared before its first rows are read, once per process. The content
of an object is the store's to keep; its digest is compared when a part is copied to this machine.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.datasets.parquet_files import (
    open_parquet,
    row_groups_containing,
    table_replaced,
    write_parquet,
)
from the_block_llm.datasets.part_writers import (
    LocalPartWriter,
    ObjectStorePartWriter,
    PartWriter,
    check_part_name,
)
from the_block_llm.errors import StorageError, TableError
from the_block_llm.files.checksums import (
    ChecksumFile,
    describe_files,
    find_damage,
    json_with_checksum,
    parse_json_with_checksum,
    remember_checksum,
)
from the_block_llm.files.durable_files import replacing_file, storage_error, write_durably
from the_block_llm.os_errors import explain

MANIFEST_NAME: Final = "_manifest.json"
_FORMAT: Final = 2
# Large enough for effective compression and column statistics, small enough that a part of
# patches is far below the memory of any machine that can train.
_PART_BYTES: Final = 64 * 1024 * 1024
_READ_BATCH_ROWS: Final = 1024


class ParquetTable:
    """A stored table, read lazily: the object itself contains no rows."""

    def __init__(self, folder: StorageLocation) -> None:
        """Open the table in ``folder``.

        Raises:
            TableError: The manifest is missing or damaged, or a part is missing or has another
                size.
            StorageError: The folder cannot be read, or its object store is unreachable.
        """
        self.folder = folder
        self.manifest = _read_manifest(self.folder)
        sizes = self._sizes()
        missing = self._parts_not_in(sizes)
        while missing and (newer := _read_manifest(self.folder)) != self.manifest:
            # A run has replaced the table meanwhile and removed its old parts.
            self.manifest = newer
            sizes = self._sizes()
            missing = self._parts_not_in(sizes)
        self.parts: Sequence[StorageLocation] = [
            self.folder / part["name"] for part in self.manifest["parts"]
        ]
        if missing:
            raise TableError(
                f"The table {self.folder} lacks {len(missing)} of its {len(self.parts)} parts "
                f"(first: {missing[0]}). Run the pipeline that writes it again."
            )
        for part in self.manifest["parts"]:
            if sizes[part["name"]] != part["bytes"]:
                raise _damaged_part(
                    self.folder,
                    f"{part['name']} has {sizes[part['name']]:,} bytes instead of "
                    f"{part['bytes']:,}",
                )

    def verify(self) -> "ParquetTable":
        """Compare every local part with its checksum, unless this process has already done so.

        Returns:
            The table.

        Raises:
            TableError: A part is damaged.
        """
        for part in self.manifest["parts"]:
            self._verify_part(part)
        return self

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
        for part, entry in zip(self.parts, self.manifest["parts"], strict=True):
            self._verify_part(entry)
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
            self._verify_part(entry)
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

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """Read the complete table, or some of its columns, as ``pandas.DataFrame``."""
        return self.table(columns).to_pandas()

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
        entries = {part["name"]: part for part in self.manifest["parts"]}
        for part in self.parts:
            copy = folder / part.name
            if not copy.exists() or copy.stat().st_size != entries[part.name]["bytes"]:
                with replacing_file(copy) as temporary:
                    part.get_file(temporary)  # type: ignore[union-attr]  # a StorePath
            check_part_name(copy)
        copies = describe_files(folder / name for name in entries)
        parts = [{**entry, **copies[name]} for name, entry in entries.items()]
        manifest = json_with_checksum({**self.manifest, "parts": parts}, indent=1)
        write_text_atomically(folder / MANIFEST_NAME, manifest)
        for path in folder.glob("part-*.parquet"):
            if path.name not in entries:
                path.unlink(missing_ok=True)
        return folder

    def _parts_not_in(self, sizes: Mapping[str, int]) -> list[str]:
        return [part["name"] for part in self.manifest["parts"] if part["name"] not in sizes]

    def _verify_part(self, part: dict[str, Any]) -> None:
        if not isinstance(self.folder, Path):
            return
        damage = find_damage(self.folder, {part["name"]: part})
        if damage is None:
            return
        if not (self.folder / part["name"]).exists():
            raise table_replaced(self.folder)
        raise _damaged_part(self.folder, damage)

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
    """Return whether ``folder`` contains a complete, undamaged table."""
    try:
        ParquetTable(folder).verify()
    except TableError:
        return False
    return True


def write_part(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write one Parquet file to a local path, atomically; :func:`save_table` makes it durable.

    Raises:
        StorageError: The file cannot be written.
    """
    with replacing_file(path, durable=False) as temporary:
        with temporary.open("wb") as file:
            sink = ChecksumFile(file)
            write_parquet(sink, schema, batches)
        remember_checksum(temporary, sink.checksum)


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
        if pending or not parts:  # an empty table has a part, from which others read its columns
            parts.append(writer.write(pending))
        writer.flush({part["name"] for part in parts})
        manifest = {
            "format": _FORMAT,
            "schema": schema.serialize().to_pybytes().hex(),
            "columns": {field.name: str(field.type) for field in schema},
            "parts": parts,
        }
        write_text_atomically(folder / MANIFEST_NAME, json_with_checksum(manifest, indent=1))
    except BaseException as error:
        # Remove the files of this save, unless the new manifest, which names them, is in place.
        if writer is not None:
            with contextlib.suppress(StorageError):  # the store may be unreachable
                writer.rollback(_referenced_parts(folder))
        if isinstance(error, OSError):
            raise storage_error(folder, error) from error
        raise
    writer.remove_unreferenced({part["name"] for part in parts})
    return ParquetTable(folder)


def write_text_atomically(path: StorageLocation, text: str) -> None:
    """Write ``text`` to ``path`` atomically and durably.

    Raises:
        StorageError: The folder cannot be written.
    """
    if isinstance(path, StorePath):
        path.put_bytes(text.encode())
    else:
        write_durably(path, text)


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
        manifest: dict[str, Any] = parse_json_with_checksum(path.read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            raise ValueError(f"format {manifest['format']}")
    except FileNotFoundError:
        raise TableError(
            f"There is no table in {folder}. Run the pipeline that writes it first; "
            "`kedro run` runs them all in order."
        ) from None
    except OSError as error:
        raise StorageError(
            f"The manifest {path} cannot be read: {explain(error)} Then run again."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(
            f"The manifest {path} cannot be read ({error}). Run the pipeline that writes it again."
        ) from error
    return manifest


def _referenced_parts(folder: StorageLocation) -> set[str]:
    try:
        return {part["name"] for part in _read_manifest(folder)["parts"]}
    except TableError:
        return set()


def _damaged_part(folder: StorageLocation, damage: str) -> TableError:
    return TableError(
        f"The table {folder} is damaged: {damage}. Run the pipeline that writes it again; "
        "`kedro run` runs them all in order."
    )
