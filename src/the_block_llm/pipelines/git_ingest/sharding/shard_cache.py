"""Caches finished shards on disk, named by a digest of everything that decides their content.

A shard is a few files with one stem. Its manifest, written last, has size and checksum of each of
them: a shard that is incomplete or damaged is not used and read again. So nothing here is flushed
to disk; a table flushes the shards that become its parts. A run whose shards are all cached
reads nothing from the repository; other options, another version of this code or a rewritten
history give other names, and shards that no run asks for any more are pruned.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from the_block_llm.files.checksums import (
    describe_files,
    find_damage,
    json_with_checksum,
    parse_json_with_checksum,
)
from the_block_llm.files.durable_files import replacing_file
from the_block_llm.source_digest import PACKAGE, source_digest

_MANIFEST_SUFFIX = ".notes.json"
# Besides the pipeline itself: columns, names of languages, and how rows are written.
_SOURCES: Final = (
    "pipelines/git_ingest", "languages.py", "schemas.py", "datasets/parquet_table.py",
    "datasets/part_writers.py", "files",
)  # fmt: skip


@dataclass(frozen=True)
class ShardCache:
    """Cached shards of one repository."""

    folder: Path

    def stem(self, name: str) -> Path:
        return self.folder / name

    def manifest(self, name: str) -> dict[str, Any] | None:
        """Return the manifest of a shard, or None if the shard is not complete and undamaged."""
        try:
            manifest: dict[str, Any] = parse_json_with_checksum(
                (self.folder / f"{name}{_MANIFEST_SUFFIX}").read_bytes()
            )
        except (OSError, ValueError):
            return None
        return manifest if find_damage(self.folder, manifest["files"]) is None else None

    def prune(self, keep: Iterable[str]) -> None:
        """Remove the files of every shard that is not in ``keep``."""
        kept = set(keep)
        for path in self.folder.iterdir():
            if path.is_file() and path.name.split(".", 1)[0] not in kept:
                path.unlink(missing_ok=True)


def finish_shard(stem: Path, files: Iterable[Path], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Mark a shard as complete by writing its manifest, and return the manifest.

    Args:
        stem: Path of the shard without suffix.
        files: Its files.
        metadata: Entries of the manifest besides the description of the files.

    Raises:
        StorageError: The folder cannot be written.
    """
    manifest = {"files": describe_files(files), **metadata}
    path = stem.with_name(f"{stem.name}{_MANIFEST_SUFFIX}")
    with replacing_file(path, durable=False) as temporary:
        temporary.write_text(json_with_checksum(manifest), encoding="utf-8")
    return manifest


def digest_of(*values: object) -> str:
    """Return a short digest of ``values``, which identifies their combination."""
    return hashlib.sha256(repr(values).encode("utf-8", "surrogateescape")).hexdigest()[:24]


@functools.cache
def code_digest(package: Path = PACKAGE) -> str:
    """Return a digest of the code that decides the rows of this pipeline.

    It covers every module of the pipeline, in all its folders, and the modules outside it that
    rows depend on. Shards stored under another digest are not used.

    Args:
        package: Folder of ``the_block_llm``.
    """
    return source_digest(_SOURCES, package)
