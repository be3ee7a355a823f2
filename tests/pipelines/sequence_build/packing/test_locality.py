import pytest
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.pipelines.sequence_build.packing.best_fit import best_fit
from the_block_llm.pipelines.sequence_build.packing.locality import folder_of, pack_by_locality


@pytest.mark.parametrize(
    ("lengths", "folders", "rows"),
    [
        # Each folder fills one row.
        ([5, 4, 5, 6], ["a", "b", "a", "b"], [[0, 2], [1, 3]]),
        # The remainders of two folders are packed in their common parent.
        ([5, 6, 5, 4], ["p/a", "q/a", "p/b", "q/b"], [[0, 2], [1, 3]]),
        # Full rows come first: nothing of "a" fits beside 9.
        ([9, 5, 1, 5], ["a", "a", "b", "b"], [[0, 2], [1, 3]]),
    ],
)
def test_chunks_of_a_folder_share_rows(
    lengths: list[int], folders: list[str], rows: list[list[int]]
) -> None:
    assert pack_by_locality(lengths, folders, [False] * len(lengths), 10) == rows


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.sampled_from(["", "a", "a/b", "a/c", "d/e/f"])),
        max_size=200,
    )
)
def test_every_chunk_is_in_one_row_and_rows_are_few(
    chunks: list[tuple[int, str]],
) -> None:
    lengths, folders = [n for n, _ in chunks], [folder for _, folder in chunks]
    rows = pack_by_locality(lengths, folders, [False] * len(chunks), 50)
    assert sorted(index for row in rows for index in row) == list(range(len(chunks)))
    assert all(sum(lengths[index] for index in row) <= 50 for row in rows)
    assert len(rows) <= 1.25 * len(best_fit(lengths, 50)) + 1


def test_the_folder_of_a_commit_is_that_of_its_first_changed_file() -> None:
    text = "say why\n\n--- a/x/y/z.rs\n+++ b/x/y/z.rs\n@@ -1 +1 @@\n-a\n+b\n"
    segments = [{"text": "Commit 1:\n\n", "train": False}, {"text": text, "train": True}]
    assert folder_of("commit", "sha", segments) == "x/y"
    assert folder_of("file", "x/y/z.rs", ()) == "x/y"
    assert folder_of("file", "readme.md", ()) == ""
