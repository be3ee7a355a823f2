"""Control of the heap and of the garbage collector."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pyarrow as pa

_GC_THRESHOLD: Final = 100_000


def trim_heap() -> None:
    """Return freed memory to the system (``malloc_trim(3)``).

    Without glibc only Arrow's memory pool is trimmed. Allocators retain freed blocks for reuse.
    With batches of varying sizes the heap fragments, and the process grows with the number of
    batches although each one is freed. A call takes milliseconds.
    """
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@contextmanager
def raise_gc_threshold() -> Iterator[None]:
    """Raise the garbage collector's threshold in this context.

    Row dictionaries form no reference cycles, but thousands of them are alive at a time, and every
    collection traverses them and all the modules of Kedro and torch: a tenth of the run time.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(_GC_THRESHOLD, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
