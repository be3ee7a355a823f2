import pytest
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.errors import ChunkTooLongError
from the_block_llm.pipelines.sequence_build.packing.best_fit import best_fit


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([], []),
        ([6], [[0]]),
        ([3, 5, 2, 4], [[0], [1], [2, 3]]),
        ([3, 3, 3, 3], [[0, 1], [2, 3]]),
        ([1, 1, 1, 1, 1, 1, 1], [[0, 1, 2, 3, 4, 5], [6]]),
        ([5, 4, 1, 2], [[0, 2], [1, 3]]),  # the fullest row that fits, not the first
    ],
)
def test_chunks_go_where_they_fit_best(lengths: list[int], rows: list[list[int]]) -> None:
    assert best_fit(lengths, 6) == rows


def test_a_chunk_longer_than_a_row_is_an_error() -> None:
    with pytest.raises(ChunkTooLongError, match="7 tokens, and a row holds 6"):
        best_fit([2, 7], 6)


@given(st.lists(st.integers(1, 50), max_size=300))
def test_every_chunk_is_in_one_row_and_rows_fit(lengths: list[int]) -> None:
    rows = best_fit(lengths, 50)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    used = [sum(lengths[index] for index in row) for row in rows]
    assert all(total <= 50 for total in used)
    # No two rows would fit into one, so at most one is less than half full.
    assert sum(total <= 25 for total in used) <= 1
