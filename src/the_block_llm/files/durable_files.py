"""Durable, atomic writes: a file or folder appears complete and on disk, or not at all.

A new file is written under a temporary name in the same folder, flushed to disk and renamed, and
then the folder is flushed: after a power failure there is the old content or the new one. The
order matters: a name that became durable before the data would point to an empty file.
"""

import glob
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from the_block_llm.errors import StorageError
from the_block_llm.os_errors import explain

UNFINISHED_SUFFIX: Final = ".unfinished"
"""Suffix of temporary names, which begin with a dot; what carries one is safe to delete."""
# File systems write the journal once for several files that are flushed at a time.
_SYNC_THREADS: Final = 8
_ABANDONED_SECONDS: Final = 24 * 3600


def write_durably(path: Path, data: str | bytes, mode: int = 0o666) -> None:
    """Replace the content of a file; its folder is created if needed.

    Args:
        path: The file.
        data: Its new content; text is encoded as UTF-8.
        mode: Permissions of the new file, before the umask.

    Raises:
        StorageError: The disk is full or the folder cannot be written; the old file is unchanged.
    """
    with replacing_file(path) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; afterwards, rename what was written there.

    Args:
        path: The file to replace; its folder is created if needed.
        durable: Flush to disk. For a cached file that is verified by its checksum, False saves
            the time.

    Raises:
        StorageError: The file cannot be written; the old file is unchanged.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _sync(temporary)
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path.parent, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; afterwards, flush its files and rename it to ``target``.

    Raises:
        StorageError: The folder cannot be written; an old one is unchanged.
    """
    temporary, replaced = _temporary(target), _temporary(target)
    remove_abandoned(target)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        sync_tree(temporary)
        if target.exists():
            # Renamed before it is deleted: a partly deleted folder must not be taken for whole.
            target.rename(replaced)
        temporary.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise storage_error(target.parent, error) from error
    finally:
        for leftover in (temporary, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def remove_abandoned(path: Path) -> None:
    """Remove what a killed process left of its attempt to write ``path``, after a day."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*{UNFINISHED_SUFFIX}"):
        # Another process may be writing a newer one.
        if time.time() - temporary.stat().st_mtime > _ABANDONED_SECONDS:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def sync_files(paths: Iterable[Path]) -> None:
    """Flush the content of files to disk.

    Raises:
        OSError: The disk reports an error.
    """
    waiting = list(paths)
    if len(waiting) < 2:
        for path in waiting:
            _sync(path)
        return
    with ThreadPoolExecutor(min(_SYNC_THREADS, len(waiting))) as pool:
        for _ in pool.map(_sync, waiting):
            pass


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk.

    Raises:
        OSError: The disk reports an error.
    """
    # Windows has no such call, and writes names of a rename with the journal.
    if sys.platform != "win32":
        _sync(folder)


def sync_tree(folder: Path) -> None:
    """Flush all files and names below ``folder`` to disk, the innermost first.

    Raises:
        OSError: The disk reports an error.
    """
    for parent, _, names in os.walk(folder, topdown=False):
        sync_files(Path(parent, name) for name in names)
        sync_folder(Path(parent))


def storage_error(folder: object, error: OSError) -> StorageError:
    """Return the error for a folder that cannot be written, with the remedy."""
    return StorageError(
        f"Cannot write to {folder}: {explain(error)} Then run again; existing data is unchanged."
    )


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED_SUFFIX}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
