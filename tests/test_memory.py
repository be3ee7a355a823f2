import gc
import platform
import subprocess
import sys

import pytest

from the_block_llm.memory import raise_gc_threshold

HOLES = """
import gc, psutil
from the_block_llm.memory import trim_heap
blocks = [bytes(60_000) for _ in range(3000)]  # below what malloc asks the system for at once
kept = blocks[::500]  # the heap's end stays in use, so glibc itself returns nothing
del blocks
gc.collect()
before = psutil.Process().memory_info().rss
trim_heap()
print(before - psutil.Process().memory_info().rss, sum(map(len, kept)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's heap")
def test_holes_between_what_is_alive_go_back_to_the_system() -> None:
    said = subprocess.run(
        [sys.executable, "-c", HOLES], capture_output=True, text=True, check=True
    ).stdout
    given_back, kept = map(int, said.split())
    assert given_back > 50_000_000
    assert kept == 6 * 60_000


def test_collections_are_rare_meanwhile_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with raise_gc_threshold():
        assert gc.get_threshold()[0] > 10 * before[0]
    assert gc.get_threshold() == before
