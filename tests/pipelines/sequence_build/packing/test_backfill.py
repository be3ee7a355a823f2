import numpy as np

from the_block_llm.pipelines.sequence_build.packing.backfill import backfill_rows
from the_block_llm.pipelines.sequence_build.packing.chunking import Chunk

ALL_TARGETS = np.ones(300, np.bool_)


def two_chunks(document: int, end: int = 100) -> list[Chunk]:
    """Return a document in two chunks."""
    return [Chunk(document, 0, 0, 0, end), Chunk(document, 0, end - 50, end, end + 50)]


def single_chunk(document: int, n_tokens: int) -> Chunk:
    return Chunk(document, 0, 0, 0, n_tokens)


def test_a_donor_from_the_rows_folder_comes_first() -> None:
    chunks = [*two_chunks(0), *two_chunks(1), single_chunk(2, 70)]
    rows = [[0], [1], [2], [3], [4]]
    folders = ["a", "a", "b", "b", "b"]
    assert backfill_rows(chunks, rows, 100, folders, [ALL_TARGETS] * 5) == [2]
    assert rows[4] == [4, 5]
    assert (chunks[2], chunks[5]) == (Chunk(1, 0, 0, 30, 100), Chunk(1, 0, 0, 0, 30))
    assert chunks[2].n_tokens == 100


def test_each_document_donates_once_and_the_emptiest_row_is_filled_first() -> None:
    chunks = [*two_chunks(0), single_chunk(1, 80), single_chunk(2, 60)]
    rows = [[0], [1], [2], [3]]
    assert backfill_rows(chunks, rows, 100, [""] * 4, [ALL_TARGETS] * 4) == [0]
    assert rows == [[0], [1], [2], [3, 4]]


def test_a_part_with_too_few_targets_is_not_moved() -> None:
    def donors(free: int, targets: slice) -> list[int]:
        mask = np.zeros(300, np.bool_)
        mask[targets] = True
        chunks = [*two_chunks(0), single_chunk(1, 100 - free)]
        return backfill_rows(chunks, [[0], [1], [2]], 100, [""] * 3, [mask] * 3)

    assert donors(15, slice(300)) == []  # too few free tokens
    assert donors(30, slice(14, 300)) == [0]
    assert donors(30, slice(15, 300)) == []  # its header is no target
    assert donors(30, slice(46)) == [0]
    assert donors(30, slice(45)) == []  # too few targets would remain in its row


def test_only_split_documents_donate_and_never_to_their_own_row() -> None:
    chunks = [single_chunk(0, 100), single_chunk(1, 50)]
    assert backfill_rows(chunks, [[0], [1]], 100, [""] * 2, [ALL_TARGETS] * 2) == []
    chunks = two_chunks(0, end=60)
    assert backfill_rows(chunks, [[0, 1]], 200, [""] * 2, [ALL_TARGETS] * 2) == []
