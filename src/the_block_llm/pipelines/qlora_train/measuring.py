"""Memory and speed of a run while it goes."""

import platform
import resource

import psutil
import torch


def memory_gib(device: torch.device) -> float:
    """GiB held: on a GPU the most since the last call, on the CPU what is resident now."""
    if device.type != "cuda":
        return float(psutil.Process().memory_info().rss) / 2**30
    most = float(torch.cuda.max_memory_allocated(device)) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return most


def peak_memory_gib(device: torch.device) -> float:
    """Most memory this process has held: allocated by torch on a GPU, resident on the CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    # Kilobytes on Linux, bytes on macOS.
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
