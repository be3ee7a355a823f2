"""Leases: they mark a file or folder as in use, so that only abandoned ones are removed.

A lease is a lock of the operating system, as in :mod:`the_block_llm.locks.process_lock`, and ends
with its process. Process ids say nothing about this: other hosts and containers have their own.
"""

import errno
import functools
import glob
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from the_block_llm.locks.process_lock import NO_LOCKS, host_name

_POLL_S: Final = 0.05
_NOT_WRITABLE: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
_LEASE_SUFFIX: Final = ".lease"
# Some file systems have no locks, or locks that do not reach other hosts: what another host has
# leased counts as in use for a day, even if its lock is free here.
_FOREIGN_GRACE_S: Final = 24 * 3600.0


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Mark ``path``, which need not exist yet, as in use until the context or the process ends.

    Any number of processes may hold a lease of the same path. In a folder that cannot be written,
    this process holds none; on a file system without locks, for a day.

    Raises:
        OSError: The lease cannot be created for another reason.
    """
    name = f".{path.name}@{host_name()}@{uuid.uuid4().hex}{_LEASE_SUFFIX}"
    lease_file = path.with_name(name)
    lock = FileLock(lease_file, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(poll_interval=_POLL_S)  # waits only while is_leased checks it just now
    except OSError as error:
        if error.errno not in _NOT_WRITABLE | NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()
        with suppress(PermissionError):  # Windows, while is_leased has the file open
            lease_file.unlink(missing_ok=True)


def is_leased(path: Path) -> bool:
    """Return whether a process that may still run holds a lease of ``path``.

    Leases of ended processes are removed.
    """
    for lease_file in path.parent.glob(f"{glob.escape(f'.{path.name}@')}*{_LEASE_SUFFIX}"):
        try:
            age_s = time.time() - lease_file.stat().st_mtime
        except FileNotFoundError:
            continue  # released in this moment
        lock = FileLock(lease_file, thread_local=False, fallback_to_soft=False)
        is_own_host = lease_file.name.split("@")[-2] == host_name()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            is_own_host = False  # as good as another: its locks are not seen here
        try:
            if not is_own_host and age_s < _FOREIGN_GRACE_S:
                return True
            # Before the release: a lease that was created in this moment then gets a new file.
            with suppress(PermissionError):  # Windows does not remove open files
                lease_file.unlink(missing_ok=True)
        finally:
            lock.release()
    return False


@contextmanager
def leased_temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Create a folder in ``parent`` with a lease, and remove it at the end.

    The first call of a process also removes those that killed processes have left.

    Raises:
        OSError: ``parent`` cannot be written.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_unleased_once(parent.resolve(), f"{prefix}-*")
    folder = parent / f"{prefix}-{uuid.uuid4().hex[:12]}"
    with lease(folder):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _remove_unleased_once(parent: Path, pattern: str) -> None:
    # Each look costs a request of a network file system for each folder in use.
    remove_unleased(parent, pattern)


def remove_unleased(parent: Path, pattern: str) -> None:
    """Remove the files and folders in ``parent`` that match and that no process has leased."""
    for path in parent.glob(pattern):
        if path.suffix == _LEASE_SUFFIX or is_leased(path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
