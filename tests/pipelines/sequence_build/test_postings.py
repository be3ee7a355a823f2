"""Every document that holds a key is found, and no other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.pipelines.sequence_build.postings import Postings, spread

_keys = st.sets(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9))


@given(held=st.lists(_keys, max_size=8), asked=_keys)
def test_a_key_is_found_in_the_documents_that_hold_it(
    held: list[set[int]], asked: set[int]
) -> None:
    postings = Postings()
    for number, keys in enumerate(held):
        postings.add(number, keys)
    postings.close()
    first, last = postings.find(np.array(sorted(asked), np.int64))
    places = spread(first, last)
    pairs = zip(postings.keys[places].tolist(), postings.owners[places].tolist(), strict=True)
    assert sorted(pairs) == sorted(
        (key, number) for number, keys in enumerate(held) for key in keys & asked
    )
