"""Jobs for workers, which import this module for them and nothing that takes long."""

import os
from pathlib import Path


def square(number: int) -> int:
    return number * number


def fail(number: int) -> None:
    raise ZeroDivisionError(f"job {number}")


def die(folder: Path, times: int) -> str:
    """End the worker process the first ``times`` times."""
    marks = len(list(folder.iterdir()))
    if marks < times:
        (folder / str(marks)).touch()
        os._exit(1)
    return "done"
