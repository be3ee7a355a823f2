"""Tables as folders of Parquet parts, written part by part and committed by their manifest.

A table is a folder holding ``manifest.json`` and the part files it names. A save writes
new parts beside the old ones and then replaces the manifest in one step, so a reader sees
the old table or the new one and never half of either; files that no manifest names are
removed afterwards. Nothing here knows Kedro: training processes read these tables too.
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from the_block_llm.errors import StorageError, TableError

MANIFEST_NAME: Final = "manifest.json"
_UNFINISHED: Final = ".unfinished"
# Large enough that compression and column statistics pay, small enough that a part of
# patches stays far below the memory of any machine that can train.
_PART_BYTES: Final = 64 * 1024 * 1024
_ROW_GROUP_BYTES: Final = 8 * 1024 * 1024  # what a reader has to hold at a time
_READ_ROWS: Final = 1024


class ParquetParts:
    """A table on disk, opened lazily: holding this object holds no rows."""

    def __init__(self, folder: Path) -> None:
        """Open the table in ``folder``.

        Raises:
            TableError: There is no manifest, it is damaged, or a part it names is gone.
        """
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)
        self.parts = [self.folder / part["name"] for part in self.manifest["parts"]]
        missing = [part.name for part in self.parts if not part.exists()]
        if missing:
            raise TableError(
                f"The table {self.folder} lacks {len(missing)} of its {len(self.parts)} parts "
                f"(first: {missing[0]}). Run the pipeline that writes it again."
            )

    @property
    def num_rows(self) -> int:
        return int(sum(part["rows"] for part in self.manifest["parts"]))

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
            with pq.ParquetFile(part) as reader:
                yield from reader.iter_batches(
                    batch_size=batch_rows, columns=None if columns is None else list(columns)
                )

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


def table_exists(folder: Path) -> bool:
    """True where ``folder`` holds a complete table."""
    try:
        ParquetParts(folder)
    except TableError:
        return False
    return True


def write_part(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write one zstd Parquet file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
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
        unfinished.replace(path)
    except OSError as error:
        raise _storage_error(path.parent, error) from error
    finally:
        unfinished.unlink(missing_ok=True)


def save_parts(
    folder: Path,
    schema: pa.Schema,
    items: Iterable[pa.RecordBatch | pa.Table | Path],
    meta: Mapping[str, Any] | None = None,
    part_bytes: int = _PART_BYTES,
) -> ParquetParts:
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
    folder = Path(folder)
    save_id = uuid.uuid4().hex[:8]
    parts: list[dict[str, Any]] = []
    pending: list[pa.RecordBatch] = []
    pending_bytes = 0

    def flush() -> None:
        nonlocal pending, pending_bytes
        if pending:
            path = folder / f"part-{len(parts):05d}-{save_id}.parquet"
            write_part(path, schema, pending)
            parts.append({"name": path.name, "rows": sum(b.num_rows for b in pending)})
            pending, pending_bytes = [], 0

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for item in items:
            if isinstance(item, Path):
                flush()
                parts.append(_adopt(folder, item, schema, f"part-{len(parts):05d}-{save_id}"))
                continue
            for batch in item.to_batches() if isinstance(item, pa.Table) else [item]:
                pending.append(_conform(batch, schema, folder))
                pending_bytes += batch.nbytes
                if pending_bytes >= part_bytes:
                    flush()
        flush()
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
        for path in folder.glob(f"part-*-{save_id}.parquet"):
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _storage_error(folder, error) from error
        raise
    _sweep(folder, {part["name"] for part in parts})
    return ParquetParts(folder)


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader sees the old file or the new, whole.

    Raises:
        StorageError: The folder cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_UNFINISHED}")
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


def _adopt(folder: Path, source: Path, schema: pa.Schema, stem: str) -> dict[str, Any]:
    with pq.ParquetFile(source) as reader:
        if not reader.schema_arrow.equals(schema):
            raise TableError(f"The part {source} has another schema than the table {folder}.")
        n_rows = reader.metadata.num_rows
    if source.parent.resolve() == folder.resolve():
        return {"name": source.name, "rows": n_rows}
    target = folder / f"{stem}.parquet"
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without hard links.
        with source.open("rb") as reader_file, target.open("wb") as writer_file:
            while chunk := reader_file.read(1 << 20):
                writer_file.write(chunk)
    return {"name": target.name, "rows": n_rows}


def _conform(batch: pa.RecordBatch, schema: pa.Schema, folder: Path) -> pa.RecordBatch:
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


def _read_manifest(folder: Path) -> dict[str, Any]:
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


def _sweep(folder: Path, keep: set[str]) -> None:
    for path in [*folder.glob("*.parquet"), *folder.glob(f".*{_UNFINISHED}")]:
        if path.name not in keep:
            path.unlink(missing_ok=True)


def _storage_error(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"Cannot write to {folder}: {error.strerror or error}. Free some space or make the "
        "folder writable, then run again; what was there before is unchanged."
    )
