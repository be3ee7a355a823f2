"""Caches finished shards on disk, named by a digest of everything that decides their content.

A shard is a few files with one stem. Its manifest is written last, so a shard with a readable
manifest is complete even if the run that wrote it was killed. A run whose shards are all cached
reads nothing from the repository; other options, another version of this code or a rewritten
history give other names, and shards that no run asks for any more are pruned.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from the_block_llm.source_digest import PACKAGE, source_digest

_MANIFEST_SUFFIX = ".notes.json"
# Besides the pipeline itself: columns, names of languages, and how rows are written.
_SOURCES: Final = (
    "pipelines/git_ingest", "languages.py", "schemas.py", "datasets/parquet_table.py",
    "datasets/part_writers.py",
)  # fmt: skip


@dataclass(frozen=True)
class ShardCache:
    """Cached shards of one repository."""

    folder: Path

    def stem(self, name: str) -> Path:
        return self.folder / name

    def manifest(self, name: str) -> dict[str, Any] | None:
        """Return the manifest of a shard, or None if the shard is not complete."""
        try:
            manifest = json.loads(
                (self.folder / f"{name}{_MANIFEST_SUFFIX}").read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            return None
        files = manifest.get("files") if isinstance(manifest, dict) else None
        is_complete = isinstance(files, dict) and self._is_complete(files)
        return manifest if is_complete else None

    def _is_complete(self, files: Mapping[str, int]) -> bool:
        # Compare sizes: shards are written without fsync, so a power failure can leave empty files.
        try:
            return all((self.folder / file).stat().st_size == n for file, n in files.items())
        except OSError:
            return False

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
        metadata: Entries of the manifest besides the sizes of the files.
    """
    manifest = {"files": {file.name: file.stat().st_size for file in files}, **metadata}
    temporary = stem.with_name(f".{stem.name}.{os.getpid()}.unfinished")
    temporary.write_text(json.dumps(manifest), encoding="utf-8")
    temporary.replace(stem.with_name(f"{stem.name}{_MANIFEST_SUFFIX}"))
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
