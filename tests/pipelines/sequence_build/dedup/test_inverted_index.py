"""Every document that holds a key is found, and no other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.pipelines.sequence_build.dedup.inverted_index import Postings, spread

_keys = st.sets(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=20)


@given(held=st.lists(_keys, max_size=8), asked=_keys, is_wide=st.booleans())
def test_a_key_is_found_in_the_documents_that_hold_it(
    held: list[set[int]], asked: set[int], is_wide: bool
) -> None:
    if not is_wide:
        held = [{key % 2**31 for key in keys} for keys in held]
        asked = {key % 2**31 for key in asked}
    kind = np.int64 if is_wide else np.int32
    postings = Postings(
        np.array([key for keys in held for key in keys], kind),
        np.array([n for n, keys in enumerate(held) for _ in keys], np.int32),
    )
    keys = list(asked)
    at, first, last = postings.find(np.array(keys, kind))
    found = {
        keys[number]: sorted(postings.owners[spread(first[n : n + 1], last[n : n + 1])].tolist())
        for n, number in enumerate(at)
    }
    holders = {key: [n for n, keys in enumerate(held) if key in keys] for key in asked}
    assert found == {key: owners for key, owners in holders.items() if owners}
