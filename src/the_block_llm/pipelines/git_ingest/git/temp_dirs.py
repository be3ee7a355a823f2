"""Temporary folders that name the process they belong to, so that a killed run's can go."""

import os
import shutil
from pathlib import Path
from typing import Final

import psutil

_MARK: Final = ".of-process-"


def own_name(stem: str) -> str:
    """Return ``stem`` with the mark of this process."""
    return f"{stem}{_MARK}{os.getpid()}"


def sweep_leftovers(folder: Path) -> None:
    """Remove from ``folder`` what processes that are gone have left behind."""
    for path in folder.glob(f"*{_MARK}*"):
        number = path.name.partition(_MARK)[2].partition("-")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(path, ignore_errors=True)
