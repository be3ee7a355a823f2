"""On-disk cache of results, from which an interrupted run resumes.

There is one file per set of weights, so results of the base model are computed once and reused for
every adapter. The key of a result is a hash of everything that determines it; the name of the file
contains a digest of the code and the libraries that compute it.

A result is a line with its own checksum, with a line break on both sides: whatever happens to one
line, torn by a kill or damaged on disk, no other is lost and no wrong result is read.
Results are flushed to disk every few seconds: a power failure costs those of the last ones.
"""

import functools
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from filelock import FileLock, Timeout

from the_block_llm.errors import StorageError
from the_block_llm.files.checksums import checksum
from the_block_llm.files.durable_files import sync_folder
from the_block_llm.os_errors import explain
from the_block_llm.source_digest import library_versions, source_digest

_log = logging.getLogger(__name__)
_SYNC_SECONDS: Final = 5.0
# What turns weights, a question or a row into an answer or a score.
_SOURCES: Final = (
    "models/adapter", "models/base", "models/collate.py", "models/inference", "models/profiles.py",
    "pipelines/behavioral_eval/held_out", "pipelines/behavioral_eval/params.py",
    "pipelines/behavioral_eval/probes", "pipelines/behavioral_eval/runner",
    "pipelines/behavioral_eval/tasks", "retrieval",
)  # fmt: skip
_LIBRARIES: Final = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")


def result_key(*parts: object) -> str:
    """Return a hash of the JSON values that determine a result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


@functools.cache
def scoring_digest() -> str:
    """Return a digest of the code and the libraries that compute results."""
    return result_key(source_digest(_SOURCES), library_versions(_LIBRARIES))[:12]


class ResultCache:
    """Results by key; a context manager that holds the file's lock."""

    def __init__(self, folder: Path, weights_id: str) -> None:
        """Open the cache of ``weights_id``; wait while another evaluation has it open.

        Results of other code are deleted.

        Args:
            folder: Holds one file per set of weights; created if missing.
            weights_id: Identifies the model weights that the results come from.

        Raises:
            StorageError: The folder cannot be written.
        """
        name = result_key(weights_id)
        self._path = folder / f"{name}-{scoring_digest()}.jsonl"
        # The operating system releases the lock of a process that dies.
        self._lock = FileLock(folder / f"{name}.lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._acquire_lock()
            try:
                for outdated in folder.glob(f"{name}*.jsonl"):
                    if outdated != self._path:
                        outdated.unlink(missing_ok=True)
                self._results = _read_results(self._path)
                # Unbuffered: a result is in the file when put returns.
                self._file = self._path.open("ab", buffering=0)
                self._synced = time.monotonic()
                sync_folder(folder)
            except OSError:
                self._lock.release()
                raise
        except OSError as error:
            raise self._error(error) from error

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
            self._lock.release()

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def __getitem__(self, key: str) -> Any:
        return self._results[key]

    def put(self, key: str, result: Any) -> None:
        """Store a result and write it to the file.

        Raises:
            StorageError: The disk is full, or the file cannot be written.
        """
        self._results[key] = result
        content = json.dumps([key, result]).encode()
        line = b"\n" + checksum(content).encode() + b" " + content + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._error(error) from error
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._error(error) from error
        self._synced = time.monotonic()

    def _acquire_lock(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            _log.info(
                "Another evaluation is computing results of the same model; this one waits for it "
                "and then uses them (%s)", self._path, extra={"markup": False},
            )  # fmt: skip
            self._lock.acquire()

    def _error(self, error: OSError) -> StorageError:
        return StorageError(
            f"Cannot write the result cache {self._path}: {explain(error)} Then run again; "
            "finished results are reused."
        )


def _read_results(path: Path) -> dict[str, Any]:
    """Read the undamaged lines, the last of each key."""
    results: dict[str, Any] = {}
    n_damaged = 0
    if not path.is_file():
        return results
    with path.open("rb") as file:
        for line in file:
            stored, _, content = line.rstrip(b"\n").partition(b" ")
            if stored and stored == checksum(content).encode():
                key, result = json.loads(content)
                results[key] = result
            elif line != b"\n":
                n_damaged += 1
    if n_damaged:
        _log.warning(
            "%d damaged lines of %s are ignored; their results are computed again",
            n_damaged, path, extra={"markup": False},
        )  # fmt: skip
    return results
