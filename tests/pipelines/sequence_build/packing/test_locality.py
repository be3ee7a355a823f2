import pytest
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.pipelines.sequence_build.packing.best_fit import best_fit
from the_block_llm.pipelines.sequence_build.packing.locality import module_of, pack_by_module


@pytest.mark.parametrize(
    ("lengths", "modules", "rows"),
    [
        # Each folder fills a row of its own.
        ([5, 4, 5, 6], ["a", "b", "a", "b"], [[0, 2], [1, 3]]),
        # What is left of two folders meets in their parent, and not in the one next door.
        ([5, 6, 5, 4], ["p/a", "q/a", "p/b", "q/b"], [[0, 2], [1, 3]]),
        # Fill comes first: nothing of "a" goes with 9.
        ([9, 5, 1, 5], ["a", "a", "b", "b"], [[0, 2], [1, 3]]),
    ],
)
def test_pieces_of_a_folder_share_rows(
    lengths: list[int], modules: list[str], rows: list[list[int]]
) -> None:
    assert pack_by_module(lengths, modules, [False] * len(lengths), 10) == rows


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.sampled_from(["", "a", "a/b", "a/c", "d/e/f"])),
        max_size=200,
    )
)
def test_every_piece_is_placed_once_in_hardly_more_rows(pieces: list[tuple[int, str]]) -> None:
    lengths, modules = [n for n, _ in pieces], [module for _, module in pieces]
    rows = pack_by_module(lengths, modules, [False] * len(pieces), 50)
    assert sorted(index for row in rows for index in row) == list(range(len(pieces)))
    assert all(sum(lengths[index] for index in row) <= 50 for row in rows)
    assert len(rows) <= 1.25 * len(best_fit(lengths, 50)) + 1


def test_a_commit_belongs_to_the_first_folder_it_changed() -> None:
    text = "say why\n\n--- a/x/y/z.rs\n+++ b/x/y/z.rs\n@@ -1 +1 @@\n-a\n+b\n"
    segments = [{"text": "Commit 1:\n\n", "train": False}, {"text": text, "train": True}]
    assert module_of("commit", "sha", segments) == "x/y"
    assert module_of("file", "x/y/z.rs", ()) == "x/y"
    assert module_of("file", "readme.md", ()) == ""
