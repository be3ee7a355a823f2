"""Results kept as they come, so that a killed run goes on where it was.

One file for each set of weights: what the base model answered is asked only once, however
many adapters are compared with it. A result's key is a hash of everything that decides it.
"""

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from the_block_llm.errors import StorageError


def result_key(*parts: object) -> str:
    """Hash of JSON values that together decide a result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


class Journal:
    """Results by key, on disk line by line."""

    def __init__(self, folder: Path, weights: str) -> None:
        """Open the journal of ``weights`` in ``folder``; close it, or use it in ``with``.

        Raises:
            StorageError: The folder cannot be written.
        """
        self._path = folder / f"{result_key(weights)}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._results = _read_whole_lines(self._path)
            self._file: TextIO = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"Cannot write the journal {self._path}: {error.strerror}. Free some space or "
                "make the folder writable, then run again; finished results are kept."
            ) from error

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def __getitem__(self, key: str) -> Any:
        return self._results[key]

    def put(self, key: str, result: Any) -> None:
        """Keep a result; it is on its way to the disk before the next one is begun."""
        self._results[key] = result
        self._file.write(json.dumps([key, result]) + "\n")
        self._file.flush()


def _read_whole_lines(path: Path) -> dict[str, Any]:
    """Read what is there, and cut off a last line that a killed run left unfinished."""
    results: dict[str, Any] = {}
    if not path.exists():
        return results
    whole = 0
    with path.open("rb") as file:
        for line in file:
            try:
                key, result = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            results[key] = result
            whole += len(line)
    if whole < path.stat().st_size:
        with path.open("r+b") as file:
            file.truncate(whole)
    return results
