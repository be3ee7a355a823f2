"""On-disk cache of results, from which an interrupted run resumes.

There is one file per set of weights, so results of the base model are computed once and
reused for every adapter. The key of a result is a hash of everything that determines it.
"""

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from the_block_llm.errors import StorageError
from the_block_llm.os_errors import explain


def result_key(*parts: object) -> str:
    """Return a hash of the JSON values that determine a result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


class ResultCache:
    """Results by key, stored as JSON lines."""

    def __init__(self, folder: Path, weights_id: str) -> None:
        """Open the cache of ``weights_id`` in ``folder``; use it as a context manager.

        Args:
            folder: Holds one file per set of weights; created if missing.
            weights_id: Identifies the model weights that the results come from.

        Raises:
            StorageError: The folder cannot be written.
        """
        self._path = folder / f"{result_key(weights_id)}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._results = _read_complete_lines(self._path)
            self._file: TextIO = self._path.open("a", encoding="utf-8")
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
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def __getitem__(self, key: str) -> Any:
        return self._results[key]

    def put(self, key: str, result: Any) -> None:
        """Store a result and flush it to the file."""
        self._results[key] = result
        self._file.write(json.dumps([key, result]) + "\n")
        self._file.flush()


def _read_complete_lines(path: Path) -> dict[str, Any]:
    """Read the complete lines; truncate the file after them if a run was interrupted."""
    results: dict[str, Any] = {}
    if not path.exists():
        return results
    complete_bytes = 0
    with path.open("rb") as file:
        for line in file:
            try:
                key, result = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            results[key] = result
            complete_bytes += len(line)
    if complete_bytes < path.stat().st_size:
        with path.open("r+b") as file:
            file.truncate(complete_bytes)
    return results
