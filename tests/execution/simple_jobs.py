"""Jobs that workers import; this module imports nothing that is slow to load."""

import os
from pathlib import Path


def square(number: int) -> int:
    return number * number


def fail(number: int) -> None:
    raise ZeroDivisionError(f"job {number}")


def die(folder: Path, times: int) -> str:
    """Kill the worker process on the first ``times`` attempts."""
    n_attempts = len(list(folder.iterdir()))
    if n_attempts < times:
        (folder / str(n_attempts)).touch()
        os._exit(1)
    return "done"
