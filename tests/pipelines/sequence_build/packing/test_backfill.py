"""Which documents lend their beginnings to rows with room."""

import numpy as np

from the_block_llm.pipelines.sequence_build.packing.backfill import lend_beginnings
from the_block_llm.pipelines.sequence_build.packing.chunking import Piece

LEARNED = np.ones(300, np.bool_)


def long(document: int, end: int = 100) -> list[Piece]:
    """A document in two pieces, of which the second fills its row."""
    return [Piece(document, 0, 0, 0, end), Piece(document, 0, end - 50, end, end + 50)]


def whole(document: int, n_tokens: int) -> Piece:
    return Piece(document, 0, 0, 0, n_tokens)


def test_a_document_of_the_rows_own_folder_lends_first() -> None:
    pieces = [*long(0), *long(1), whole(2, 70)]
    rows = [[0], [1], [2], [3], [4]]
    modules = ["a", "a", "b", "b", "b"]
    assert lend_beginnings(pieces, rows, 100, modules, [LEARNED] * 5) == [2]
    assert rows[4] == [4, 5]
    assert (pieces[2], pieces[5]) == (Piece(1, 0, 0, 30, 100), Piece(1, 0, 0, 0, 30))
    assert pieces[2].n_tokens == 100


def test_each_lends_once_and_the_most_room_is_filled_first() -> None:
    pieces = [*long(0), whole(1, 80), whole(2, 60)]
    rows = [[0], [1], [2], [3]]
    assert lend_beginnings(pieces, rows, 100, [""] * 4, [LEARNED] * 4) == [0]
    assert rows == [[0], [1], [2], [3, 4]]


def test_what_would_teach_too_little_is_left_where_it_is() -> None:
    def lent(spare: int, learned: slice) -> list[int]:
        mask = np.zeros(300, np.bool_)
        mask[learned] = True
        pieces = [*long(0), whole(1, 100 - spare)]
        return lend_beginnings(pieces, [[0], [1], [2]], 100, [""] * 3, [mask] * 3)

    assert lent(15, slice(300)) == []  # too little room
    assert lent(30, slice(14, 300)) == [0]
    assert lent(30, slice(15, 300)) == []  # its head is shown, not learned
    assert lent(30, slice(46)) == [0]
    assert lent(30, slice(45)) == []  # nothing would be left to learn where it was


def test_only_what_is_cut_anyway_lends_and_never_to_its_own_row() -> None:
    pieces = [whole(0, 100), whole(1, 50)]
    assert lend_beginnings(pieces, [[0], [1]], 100, [""] * 2, [LEARNED] * 2) == []
    pieces = long(0, end=60)
    assert lend_beginnings(pieces, [[0, 1]], 200, [""] * 2, [LEARNED] * 2) == []
