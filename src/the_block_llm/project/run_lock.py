"""The lock of a run: one run at a time changes the files of a project."""

from pathlib import Path
from typing import Final

from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.errors import StorageError
from the_block_llm.locks.process_lock import ProcessLock
from the_block_llm.os_errors import explain
from the_block_llm.project.store_lease import StoreLease

_LOCK_FILE: Final = ".run.lock"
_REMEDY: Final = (
    "One process at a time changes these files. Run again when it has ended, or stop it, or work "
    "in a copy of the project. execution.lock_timeout_s is how long a run waits for another."
)


class RunLock:
    """Keeps other processes out of the folders in which a run replaces files.

    These are ``data`` with models, checkpoints and reports; the folder of ``storage`` with the
    tables; and, while a repository is read, the cache of shards, which projects may share.
    """

    def __init__(
        self, data: Path, storage: StorageLocation | None = None, cache: Path | None = None
    ) -> None:
        """Create the lock without acquiring it.

        Args:
            data: The folder ``data`` of the project.
            storage: Folder of the tables. In an object store, it has a lease instead of a lock.
            cache: Cache of shards, if the run reads a repository.
        """
        folders = {data.resolve()}
        if isinstance(storage, Path):
            folders.add(storage.resolve())
        # In the same order everywhere, so that two runs never wait for each other.
        self._locks = [_folder_lock(folder) for folder in sorted(folders)]
        self._lease = StoreLease(storage, _REMEDY) if isinstance(storage, StorePath) else None
        self._cache_lock = None if cache is None else _folder_lock(cache.resolve())

    def acquire(self, timeout_s: float) -> None:
        """Wait for other processes to release the folders.

        Args:
            timeout_s: How long to wait for each folder.

        Raises:
            InUseError: A folder was still in use after this time.
            StorageError: A lock cannot be created.
        """
        try:
            for lock in (*self._locks, self._lease, self._cache_lock):
                if lock is not None:
                    lock.acquire(timeout_s)
        except OSError as error:
            self.release()
            raise StorageError(
                f"The lock {error.filename} cannot be created: {explain(error)}"
            ) from error
        except BaseException:
            self.release()
            raise

    def check(self) -> None:
        """Check that no other run has taken over the tables in an object store.

        Raises:
            InUseError: One has, since this run could not reach the store for too long.
            StorageError: The store cannot be reached.
        """
        if self._lease is not None:
            self._lease.check()

    def release_cache(self) -> None:
        """Release the cache of shards, once no node of the run reads a repository any more."""
        if self._cache_lock is not None:
            self._cache_lock.release()

    def release(self) -> None:
        """Release everything that is held."""
        self.release_cache()
        if self._lease is not None:
            self._lease.release()
        for lock in self._locks:
            lock.release()


def _folder_lock(folder: Path) -> ProcessLock:
    return ProcessLock(folder / _LOCK_FILE, f"The folder {folder}", _REMEDY, takes_over=True)
