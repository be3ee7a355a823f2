import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.pipelines.sequence_build.dedup.inverted_index import InvertedIndex, expand_ranges

_keys = st.sets(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=20)


@given(documents=st.lists(_keys, max_size=8), query=_keys, is_64_bit=st.booleans())
def test_find_returns_exactly_the_documents_that_contain_a_key(
    documents: list[set[int]], query: set[int], is_64_bit: bool
) -> None:
    if not is_64_bit:
        documents = [{key % 2**31 for key in keys} for keys in documents]
        query = {key % 2**31 for key in query}
    dtype = np.int64 if is_64_bit else np.int32
    index = InvertedIndex(
        np.array([key for keys in documents for key in keys], dtype),
        np.array([n for n, keys in enumerate(documents) for _ in keys], np.int32),
    )
    keys = list(query)
    found, first, last = index.find(np.array(keys, dtype))
    result = {
        keys[number]: sorted(
            index.documents[expand_ranges(first[n : n + 1], last[n : n + 1])].tolist()
        )
        for n, number in enumerate(found)
    }
    expected = {key: [n for n, keys in enumerate(documents) if key in keys] for key in query}
    assert result == {key: numbers for key, numbers in expected.items() if numbers}
