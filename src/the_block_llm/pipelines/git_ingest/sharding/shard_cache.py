"""Finished pieces of work on disk, named by everything that decides their content.

A piece is a few files of one stem. Its notes are written last, so a piece whose notes can be
read is whole, whenever the run that made it was killed. A run that finds all its pieces here
reads nothing from the repository; a run with other options, another version of this code or
a rewritten history asks for other names, and what nobody asked for is swept away.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NOTES = ".notes.json"
_PACKAGE = Path(__file__).parents[3]


@dataclass(frozen=True)
class PieceCache:
    """The pieces of one repository."""

    folder: Path

    def stem(self, name: str) -> Path:
        return self.folder / name

    def notes(self, name: str) -> dict[str, Any] | None:
        """Return what was noted when the piece was finished; None where it is not."""
        try:
            notes: dict[str, Any] = json.loads(
                (self.folder / f"{name}{_NOTES}").read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            return None
        return notes if self._is_whole(notes["files"]) else None

    def _is_whole(self, files: Mapping[str, int]) -> bool:
        # Sizes, because what was written is not forced to the disk piece by piece: after a
        # power failure a file can be there and be empty.
        try:
            return all((self.folder / file).stat().st_size == n for file, n in files.items())
        except OSError:
            return False

    def sweep(self, keep: Iterable[str]) -> None:
        """Remove every file that does not belong to one of the pieces in ``keep``."""
        kept = set(keep)
        for path in self.folder.iterdir():
            if path.is_file() and path.name.split(".", 1)[0] not in kept:
                path.unlink(missing_ok=True)


def finish_piece(stem: Path, files: Iterable[Path], notes: Mapping[str, Any]) -> dict[str, Any]:
    """Declare the piece of that stem finished; returns the notes as they will be read."""
    told = {"files": {file.name: file.stat().st_size for file in files}, **notes}
    unfinished = stem.with_name(f".{stem.name}.{os.getpid()}.unfinished")
    unfinished.write_text(json.dumps(told), encoding="utf-8")
    unfinished.replace(stem.with_name(f"{stem.name}{_NOTES}"))
    return told


def digest_of(*facts: object) -> str:
    """Return a short name for a combination of facts."""
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()[:24]


@functools.cache
def code_digest(package: Path = _PACKAGE) -> str:
    """Return a digest of the code that decides the rows of this pipeline.

    It covers every module of the pipeline, in all its folders, and the modules outside it that
    rows depend on: the columns and the names of languages. A module that is edited, moved,
    added or removed gives another digest, and shards stored under the old one are not used.

    Args:
        package: Folder of ``the_block_llm``.
    """
    modules = sorted((package / "pipelines/git_ingest").rglob("*.py"))
    digest = hashlib.sha256()
    for module in (*modules, package / "languages.py", package / "schemas.py"):
        content = module.read_bytes()
        digest.update(f"{module.relative_to(package).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]
