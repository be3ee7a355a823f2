"""Writers of the parts of a table: to a local folder, and to an object store."""

import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.datasets.parquet_files import validate_part, write_parquet
from the_block_llm.errors import StorageError
from the_block_llm.files.checksums import file_checksum
from the_block_llm.files.durable_files import UNFINISHED_SUFFIX, sync_files, sync_folder

# Of an earlier version; other programs take it for a part.
_FORMER_MANIFEST: Final = "manifest.json"


class PartWriter(Protocol):
    """Adds parts to the folder of a table; existing parts stay until the manifest is replaced."""

    def write(self, batches: Sequence[pa.RecordBatch]) -> dict[str, Any]:
        """Write rows as the next part; return its manifest entry."""
        ...

    def add_file(self, source: StorageLocation) -> dict[str, Any]:
        """Add an existing file as the next part; return its manifest entry."""
        ...

    def flush(self, referenced: set[str]) -> None:
        """Make the parts that the new manifest references durable."""
        ...

    def rollback(self, referenced: set[str]) -> None:
        """Remove the parts of this save that no manifest references, after it has failed."""
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
        return _local_entry(path, sum(batch.num_rows for batch in batches))

    def add_file(self, source: StorageLocation) -> dict[str, Any]:
        n_rows, _ = validate_part(source, self._schema, self._folder)
        if isinstance(source, Path) and source.parent.resolve() == self._folder.resolve():
            return _local_entry(source, n_rows)
        target = self._next_path()
        if isinstance(source, StorePath):
            source.get_file(target)
        else:
            _hardlink_or_copy(source, target)
        return _local_entry(target, n_rows)

    def flush(self, referenced: set[str]) -> None:
        sync_files(self._folder / name for name in referenced)
        sync_folder(self._folder)

    def rollback(self, referenced: set[str]) -> None:
        for path in self._folder.glob(f"part-*-{self._save_id}.parquet"):
            if path.name not in referenced:
                path.unlink(missing_ok=True)

    def remove_unreferenced(self, referenced: set[str]) -> None:
        unfinished = self._folder.glob(f".*{UNFINISHED_SUFFIX}")
        for path in [*self._folder.glob("*.parquet"), *unfinished]:
            if path.name not in referenced:
                path.unlink(missing_ok=True)
        (self._folder / _FORMER_MANIFEST).unlink(missing_ok=True)

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
        n_rows = sum(batch.num_rows for batch in batches)
        return {"name": name, "rows": n_rows, "bytes": len(data)}

    def add_file(self, source: StorageLocation) -> dict[str, Any]:
        n_rows, n_bytes = validate_part(source, self._schema, self._folder)
        if isinstance(source, StorePath):
            # Written by this class, to this or another folder: the name identifies the content.
            if source.name not in self._existing:
                self._uploaded.append(source.name)
                (self._folder / source.name).put_copy(source)
            return {"name": source.name, "rows": n_rows, "bytes": n_bytes}
        with source.open("rb") as file:
            name = _part_name(hashlib.file_digest(file, "sha256").hexdigest())
        self._upload_if_absent(name, n_bytes, lambda target: target.put_file(source))
        return {"name": name, "rows": n_rows, "bytes": n_bytes}

    def flush(self, referenced: set[str]) -> None:
        """Do nothing: an upload is durable once the store has confirmed it."""

    def rollback(self, referenced: set[str]) -> None:
        for name in set(self._uploaded) - referenced:
            (self._folder / name).unlink()

    def remove_unreferenced(self, referenced: set[str]) -> None:
        for name in {*self._existing, *self._uploaded} - referenced:
            if name.endswith(".parquet") or name == _FORMER_MANIFEST:
                (self._folder / name).unlink()

    def _upload_if_absent(
        self, name: str, n_bytes: int, upload: Callable[[StorePath], None]
    ) -> None:
        if self._existing.get(name) != n_bytes and name not in self._uploaded:
            self._uploaded.append(name)
            upload(self._folder / name)


def check_part_name(copy: Path) -> None:
    """Compare the content of a part downloaded from an object store with the digest in its name.

    Raises:
        StorageError: The content differs; the copy is removed.
    """
    with copy.open("rb") as file:
        name = _part_name(hashlib.file_digest(file, "sha256").hexdigest())
    if name != copy.name:
        copy.unlink()
        raise StorageError(
            f"The content of the downloaded part {copy} differs from what was uploaded. Run again "
            "to download it once more; if it differs again, run the pipeline that writes the table."
        )


def _local_entry(path: Path, n_rows: int) -> dict[str, Any]:
    return {
        "name": path.name,
        "rows": n_rows,
        "bytes": path.stat().st_size,
        "checksum": file_checksum(path),
    }


def _part_name(digest: str) -> str:
    return f"part-{digest[:32]}.parquet"


def _hardlink_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copyfile(source, target)
