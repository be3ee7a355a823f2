import gc
import platform
import subprocess
import sys

import pytest

from the_block_llm.memory import raise_gc_threshold

SCRIPT = """
import gc, psutil
from the_block_llm.memory import trim_heap
blocks = [bytes(60_000) for _ in range(3000)]  # below the mmap threshold
retained = blocks[::500]  # the top of the heap stays in use, so free() returns nothing
del blocks
gc.collect()
before = psutil.Process().memory_info().rss
trim_heap()
print(before - psutil.Process().memory_info().rss, sum(map(len, retained)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is specific to glibc")
def test_trim_heap_returns_free_blocks_between_live_ones() -> None:
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    ).stdout
    returned_bytes, retained_bytes = map(int, output.split())
    assert returned_bytes > 50_000_000
    assert retained_bytes == 6 * 60_000


def test_gc_threshold_is_raised_and_restored() -> None:
    before = gc.get_threshold()
    with raise_gc_threshold():
        assert gc.get_threshold()[0] > 10 * before[0]
    assert gc.get_threshold() == before
