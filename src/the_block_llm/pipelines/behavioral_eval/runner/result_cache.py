"""On-disk cache of results, from which an interrupted run resumes.

There is one file per set of weights, so results of the base model are computed once and
reused for every adapter. The key of a result is a hash of everything that determines it. Every
line has its checksum: a damaged one is skipped and its result computed again. Results are flushed
to disk every few seconds, so a power failure costs those of the last ones.
"""

import hashlib
import json
import os
import time
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from the_block_llm.checksums import checksum
from the_block_llm.durable_files import storage_error, sync_folder
from the_block_llm.errors import StorageError
from the_block_llm.os_errors import explain

_SYNC_SECONDS: Final = 5.0


def result_key(*parts: object) -> str:
    """Return a hash of the JSON values that determine a result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


class ResultCache:
    """Results by key, stored as JSON lines, each with its checksum."""

    def __init__(self, folder: Path, weights_id: str) -> None:
        """Open the cache of ``weights_id`` in ``folder``; use it as a context manager.

        Args:
            folder: Holds one file per set of weights; created if missing.
            weights_id: Identifies the model weights that the results come from.

        Raises:
            StorageError: The folder cannot be written.
        """
        self._path = folder / f"{result_key(weights_id)}.jsonl"
        self._synced = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._results, is_whole = _read_results(self._path)
            # Without a buffer, which a kill would lose.
            self._file: FileIO = self._path.open("ab", buffering=0)
            if not is_whole:
                self._file.write(b"\n")  # ends a line that was interrupted
            sync_folder(folder)
        except OSError as error:
            raise StorageError(
                f"Cannot write the result cache {self._path}: {explain(error)} Then run again; "
                "finished results are reused."
            ) from error

    def __enter__(self) -> "ResultCache":
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._sync()
        finally:
            self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def __getitem__(self, key: str) -> Any:
        return self._results[key]

    def put(self, key: str, result: Any) -> None:
        """Store a result.

        Raises:
            StorageError: The disk is full.
        """
        self._results[key] = result
        line = json.dumps([_checksum(key, result), key, result]) + "\n"
        unwritten = memoryview(line.encode())
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            raise storage_error(self._path.parent, error) from error
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise storage_error(self._path.parent, error) from error
        self._synced = time.monotonic()


def _read_results(path: Path) -> tuple[dict[str, Any], bool]:
    """Read the undamaged lines.

    Returns:
        The results, and whether the file ends with a complete line.
    """
    results: dict[str, Any] = {}
    line = b"\n"
    if not path.exists():
        return results, True
    with path.open("rb") as file:
        for line in file:
            try:
                stored, key, result = json.loads(line)
            except (ValueError, TypeError):
                continue
            if stored == _checksum(key, result):
                results[key] = result
    return results, line.endswith(b"\n")


def _checksum(key: str, result: Any) -> str:
    return checksum(json.dumps([key, result]).encode())
