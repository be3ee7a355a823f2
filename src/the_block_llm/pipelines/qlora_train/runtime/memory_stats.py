"""Memory and speed of a run while it goes."""

import platform
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
import torch

from the_block_llm.models.plain.memory_plan import resident_bytes

# Of Linux: what a process holds and has held, and how it is told to count anew.
_STATUS: Final = Path("/proc/self/status")
_FORGET: Final = Path("/proc/self/clear_refs")


def memory_gib(device: torch.device) -> float:
    """GiB held: on a GPU the most since the last call, on the CPU what is resident now."""
    if device.type != "cuda":
        return float(psutil.Process().memory_info().rss) / 2**30
    most = float(torch.cuda.max_memory_allocated(device)) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return most


def forget_peak(device: torch.device) -> None:
    """Let :func:`peak_memory_gib` count from now on, where the system can do that.

    Peaks of earlier stages, and of loading, are not training's.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    resident_bytes()  # gives back what loading has let go
    # Where this may not be written, the peak stays that of the whole process.
    with suppress(OSError):
        _FORGET.write_text("5", encoding="ascii")


def peak_memory_gib(device: torch.device) -> float:
    """Most memory this process has held: allocated by torch on a GPU, resident on the CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    # Kilobytes elsewhere, bytes on macOS.
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def spoken_duration(seconds: float) -> str:
    """Seconds as a person would say them.

    >>> spoken_duration(8000)
    '2.2 h'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def device_name(device: torch.device) -> str:
    """The device as a reader of a report knows it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {torch.get_num_threads()} threads"
