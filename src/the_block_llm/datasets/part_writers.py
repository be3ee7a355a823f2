"""How the parts of a table get into its folder: on a file system, and in an object store."""

import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.datasets.parquet_files import checked_rows, write_parquet

UNFINISHED: Final = ".unfinished"


class PartWriter(Protocol):
    """Puts parts beside those that are there, which stay until the manifest is replaced."""

    def write(self, batches: Sequence[pa.RecordBatch]) -> dict[str, Any]:
        """Write rows as the next part; returns its entry in the manifest."""
        ...

    def adopt(self, source: StorageLocation) -> dict[str, Any]:
        """Take a finished file as the next part; returns its entry in the manifest."""
        ...

    def undo(self) -> None:
        """Remove what this save has put: the save has failed."""
        ...

    def sweep(self, keep: set[str]) -> None:
        """Remove everything but the parts that the manifest now names."""
        ...


class LocalPartWriter:
    """Parts in a folder of a file system, numbered; finished files are linked."""

    def __init__(
        self,
        folder: Path,
        schema: pa.Schema,
        write_part: Callable[[Path, pa.Schema, Iterable[pa.RecordBatch]], None],
    ) -> None:
        """Make the folder if there is none; ``write_part`` writes a file, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._schema = schema
        self._write_part = write_part
        self._save_id = uuid.uuid4().hex[:8]
        self._count = 0

    def write(self, batches: Sequence[pa.RecordBatch]) -> dict[str, Any]:
        path = self._next()
        self._write_part(path, self._schema, batches)
        return {"name": path.name, "rows": sum(batch.num_rows for batch in batches)}

    def adopt(self, source: StorageLocation) -> dict[str, Any]:
        n_rows = checked_rows(source, self._schema, self._folder)
        target = self._next()
        if isinstance(source, StorePath):
            source.get_file(target)
        elif source.parent.resolve() == self._folder.resolve():
            return {"name": source.name, "rows": n_rows}
        else:
            _link_or_copy(source, target)
        return {"name": target.name, "rows": n_rows}

    def undo(self) -> None:
        for path in self._folder.glob(f"part-*-{self._save_id}.parquet"):
            path.unlink(missing_ok=True)

    def sweep(self, keep: set[str]) -> None:
        for path in [*self._folder.glob("*.parquet"), *self._folder.glob(f".*{UNFINISHED}")]:
            if path.name not in keep:
                path.unlink(missing_ok=True)

    def _next(self) -> Path:
        self._count += 1
        return self._folder / f"part-{self._count - 1:05d}-{self._save_id}.parquet"


class ObjectStorePartWriter:
    """Parts in an object store, named by a digest of their bytes.

    So a part that lies there already is not sent again: not by the next run of a repository
    that has grown a little, and not by a run that goes on where one was killed.
    """

    def __init__(self, folder: StorePath, schema: pa.Schema) -> None:
        """Look which parts are there."""
        self._folder = folder
        self._schema = schema
        self._there = folder.sizes()
        self._put: list[str] = []

    def write(self, batches: Sequence[pa.RecordBatch]) -> dict[str, Any]:
        # As large as a part at most, and the rows themselves are in memory anyway.
        sink = io.BytesIO()
        write_parquet(sink, self._schema, batches)
        data = sink.getvalue()
        name = _name(hashlib.sha256(data).hexdigest())
        self._put_unless_there(name, len(data), lambda target: target.put_bytes(data))
        return {"name": name, "rows": sum(batch.num_rows for batch in batches)}

    def adopt(self, source: StorageLocation) -> dict[str, Any]:
        n_rows = checked_rows(source, self._schema, self._folder)
        if isinstance(source, StorePath):
            # Written by this class, into another folder or this one: the name tells the bytes.
            if source.name not in self._there:
                self._put.append(source.name)
                (self._folder / source.name).put_copy(source)
            return {"name": source.name, "rows": n_rows}
        with source.open("rb") as file:
            name = _name(hashlib.file_digest(file, "sha256").hexdigest())
        n_bytes = source.stat().st_size
        self._put_unless_there(name, n_bytes, lambda target: target.put_file(source))
        return {"name": name, "rows": n_rows}

    def undo(self) -> None:
        for name in self._put:
            (self._folder / name).unlink()

    def sweep(self, keep: set[str]) -> None:
        for name in {*self._there, *self._put} - keep:
            if name.endswith(".parquet"):
                (self._folder / name).unlink()

    def _put_unless_there(self, name: str, n_bytes: int, put: Callable[[StorePath], None]) -> None:
        if self._there.get(name) != n_bytes and name not in self._put:
            self._put.append(name)
            put(self._folder / name)


def _name(digest: str) -> str:
    return f"part-{digest[:32]}.parquet"


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without hard links.
        with source.open("rb") as reader_file, target.open("wb") as writer_file:
            while chunk := reader_file.read(1 << 20):
                writer_file.write(chunk)
