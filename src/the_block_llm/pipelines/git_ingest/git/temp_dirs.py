"""Temporary directories named after their process, so that those of killed runs can be removed."""

import os
import shutil
from pathlib import Path
from typing import Final

import psutil

_PID_MARKER: Final = ".of-process-"


def temp_dir_name(stem: str) -> str:
    """Return ``stem`` with the ID of this process appended."""
    return f"{stem}{_PID_MARKER}{os.getpid()}"


def remove_stale_temp_dirs(folder: Path) -> None:
    """Remove temporary directories in ``folder`` whose process no longer exists."""
    for path in folder.glob(f"*{_PID_MARKER}*"):
        pid = path.name.partition(_PID_MARKER)[2].partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
