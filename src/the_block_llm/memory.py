"""Memory that a process has let go, and how often it looks for what it could let go."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pyarrow as pa

_OBJECTS_BETWEEN_COLLECTIONS: Final = 100_000


def trim_heap() -> None:
    """Return freed memory to the system; does nothing where the C library is not glibc.

    Allocators keep what was freed for the next to ask, in pieces between what is alive. Work that
    comes in portions of varied sizes fits ever less of it in, and so its process would grow with
    the number of portions though each lets go of everything. A call takes milliseconds.
    """
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@contextmanager
def raise_gc_threshold() -> Iterator[None]:
    """Look for circles of objects less often, meanwhile.

    Rows make none, but thousands of them wait for their batch, and are looked through with all the
    modules of Kedro and torch each time: a tenth of the work.
    """
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
