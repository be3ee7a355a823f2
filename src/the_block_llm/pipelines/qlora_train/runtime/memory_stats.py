"""Memory statistics of the process, and how durations and devices are displayed."""

import platform
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
import torch

from the_block_llm.models.plain.memory_plan import resident_bytes

# Linux only: current and peak resident memory, and the file that resets the peak.
_STATUS: Final = Path("/proc/self/status")
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")


def step_memory_gib(device: torch.device) -> float:
    """Return the memory of the last step in GiB.

    On a GPU the peak allocation since the last call, which this call resets; on the CPU the
    resident memory now.
    """
    if device.type != "cuda":
        return float(psutil.Process().memory_info().rss) / 2**30
    peak = float(torch.cuda.max_memory_allocated(device)) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def reset_peak_memory(device: torch.device) -> None:
    """Restart the peak that :func:`peak_memory_gib` reports, where the system supports that.

    Otherwise the peak of an earlier stage, or of loading the model, would be reported.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    resident_bytes()  # trims the heap after loading
    # Without write permission the peak remains that of the whole process.
    with suppress(OSError):
        _CLEAR_REFS.write_text("5", encoding="ascii")


def peak_memory_gib(device: torch.device) -> float:
    """Return the process's peak memory in GiB: allocated on a GPU, resident on the CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    # ru_maxrss is in bytes on macOS and in kilobytes elsewhere.
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def format_duration(seconds: float) -> str:
    """Format seconds with a readable unit.

    >>> format_duration(8000)
    '2.2 h'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def device_name(device: torch.device) -> str:
    """Return the device's name as reports show it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {torch.get_num_threads()} threads"
