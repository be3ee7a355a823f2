"""Every document that holds a key is found, and no other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.pipelines.sequence_build.postings import Postings, spread

_keys = st.sets(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9))


@given(held=st.lists(_keys, max_size=8), asked=_keys, run_keys=st.integers(1, 20))
def test_a_key_is_found_in_the_documents_that_hold_it(
    held: list[set[int]], asked: set[int], run_keys: int
) -> None:
    postings = Postings(run_keys)
    for number, keys in enumerate(held):
        postings.add(number, keys)
    postings.close()
    for key in asked:
        owners = postings.owners[spread(*postings.find(np.array([key], np.int64)))]
        assert sorted(owners.tolist()) == [n for n, keys in enumerate(held) if key in keys]
    together = postings.owners[spread(*postings.find(np.array(sorted(asked), np.int64)))]
    assert sorted(together.tolist()) == sorted(
        number for number, keys in enumerate(held) for _ in keys & asked
    )
