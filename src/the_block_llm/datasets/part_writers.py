"""Writers of the parts of a table: to a local folder, and to an object store."""

import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.datasets.parquet_files import validate_part, write_parquet

TEMP_SUFFIX: Final = ".unfinished"


class PartWriter(Protocol):
    """Adds parts to the folder of a table; existing parts stay until the manifest is replaced."""

    def write(self, batches: Sequence[pa.RecordBatch]) -> dict[str, Any]:
        """Write rows as the next part; return its manifest entry."""
        ...

    def add_file(self, source: StorageLocation) -> dict[str, Any]:
        """Add an existing file as the next part; return its manifest entry."""
        ...

    def rollback(self) -> None:
        """Remove the parts of this save, after it has failed."""
        ...

    def remove_unreferenced(self, referenced: set[str]) -> None:
        """Remove all parts that the new manifest does not reference."""
        ...


class LocalPartWriter:
    """Writes numbered parts to a local folder; existing files are hard-linked."""

    def __init__(
        self,
        folder: Path,
        schema: pa.Schema,
        write_part: Callable[[Path, pa.Schema, Iterable[pa.RecordBatch]], None],
    ) -> None:
        """Create the folder if necessary; ``write_part`` writes a file atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._schema = schema
        self._write_part = write_part
        self._save_id = uuid.uuid4().hex[:8]
        self._count = 0

    def write(self, batches: Sequence[pa.RecordBatch]) -> dict[str, Any]:
        path = self._next_path()
        self._write_part(path, self._schema, batches)
        return {"name": path.name, "rows": sum(batch.num_rows for batch in batches)}

    def add_file(self, source: StorageLocation) -> dict[str, Any]:
        n_rows = validate_part(source, self._schema, self._folder)
        target = self._next_path()
        if isinstance(source, StorePath):
            source.get_file(target)
        elif source.parent.resolve() == self._folder.resolve():
            return {"name": source.name, "rows": n_rows}
        else:
            _hardlink_or_copy(source, target)
        return {"name": target.name, "rows": n_rows}

    def rollback(self) -> None:
        for path in self._folder.glob(f"part-*-{self._save_id}.parquet"):
            path.unlink(missing_ok=True)

    def remove_unreferenced(self, referenced: set[str]) -> None:
        for path in [*self._folder.glob("*.parquet"), *self._folder.glob(f".*{TEMP_SUFFIX}")]:
            if path.name not in referenced:
                path.unlink(missing_ok=True)

    def _next_path(self) -> Path:
        self._count += 1
        return self._folder / f"part-{self._count - 1:05d}-{self._save_id}.parquet"


class ObjectStorePartWriter:
    """Uploads parts to an object store, named by a digest of their content.

    Parts that exist are not uploaded again, neither by the next run on a repository with few new
    commits nor by a run that resumes a killed one.
    """

    def __init__(self, folder: StorePath, schema: pa.Schema) -> None:
        """List the existing parts."""
        self._folder = folder
        self._schema = schema
        self._existing = folder.sizes()
        self._uploaded: list[str] = []

    def write(self, batches: Sequence[pa.RecordBatch]) -> dict[str, Any]:
        # At most the size of a part, whose rows are in memory anyway.
        sink = io.BytesIO()
        write_parquet(sink, self._schema, batches)
        data = sink.getvalue()
        name = _part_name(hashlib.sha256(data).hexdigest())
        self._upload_if_absent(name, len(data), lambda target: target.put_bytes(data))
        return {"name": name, "rows": sum(batch.num_rows for batch in batches)}

    def add_file(self, source: StorageLocation) -> dict[str, Any]:
        n_rows = validate_part(source, self._schema, self._folder)
        if isinstance(source, StorePath):
            # Written by this class, to this or another folder: the name identifies the content.
            if source.name not in self._existing:
                self._uploaded.append(source.name)
                (self._folder / source.name).put_copy(source)
            return {"name": source.name, "rows": n_rows}
        with source.open("rb") as file:
            name = _part_name(hashlib.file_digest(file, "sha256").hexdigest())
        n_bytes = source.stat().st_size
        self._upload_if_absent(name, n_bytes, lambda target: target.put_file(source))
        return {"name": name, "rows": n_rows}

    def rollback(self) -> None:
        for name in self._uploaded:
            (self._folder / name).unlink()

    def remove_unreferenced(self, referenced: set[str]) -> None:
        for name in {*self._existing, *self._uploaded} - referenced:
            if name.endswith(".parquet"):
                (self._folder / name).unlink()

    def _upload_if_absent(
        self, name: str, n_bytes: int, upload: Callable[[StorePath], None]
    ) -> None:
        if self._existing.get(name) != n_bytes and name not in self._uploaded:
            self._uploaded.append(name)
            upload(self._folder / name)


def _part_name(digest: str) -> str:
    return f"part-{digest[:32]}.parquet"


def _hardlink_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without hard links.
        with source.open("rb") as source_file, target.open("wb") as target_file:
            while chunk := source_file.read(1 << 20):
                target_file.write(chunk)
