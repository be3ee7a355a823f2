"""Room that nothing else fills, given to the beginnings of long documents.

A question is never cut, so in short rows there is often room beside it that no other document
fits into. The beginning of a document that is cut anyway may be learned there: it needs nothing
before it. In its own row it stays, as what is shown before the rest, so that row remains as long as
it was.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from the_block_llm.pipelines.sequence_build.packing.chunking import Piece
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import Mask

_FEWEST_LEARNED: Final = 16  # tokens of a beginning, and of what stays behind


def lend_beginnings(
    pieces: list[Piece],
    rows: Sequence[list[int]],
    context_tokens: int,
    modules: Sequence[str],
    labels_masks: Sequence[Mask],
) -> list[int]:
    """Put beginnings of long documents into rows that have room.

    Args:
        pieces: Those of one document in order, one after another. Each beginning is appended;
            the piece that it was part of shows those tokens from now on and no longer learns them.
        rows: Indices of the pieces in each row; a beginning is added to the row that it fills.
        context_tokens: Capacity of a row.
        modules: Folder of each piece: a document of the row's own is preferred.
        labels_masks: Of each piece the targets of its document, shape ``(document tokens,)``.

    Returns:
        For each piece that was appended the index of the one that lent it.

    >>> pieces = [Piece(0, 0, 0, 0, 80), Piece(1, 0, 0, 0, 99), Piece(1, 0, 40, 60, 120)]
    >>> rows, learned = [[0], [1], [2]], np.ones(120, np.bool_)
    >>> lend_beginnings(pieces, rows, 100, [""] * 3, [learned] * 3)
    [1]
    >>> rows, [(piece.begin, piece.end) for piece in pieces]
    ([[0, 3], [1], [2]], [(0, 80), (20, 99), (60, 120), (0, 20)])
    """
    spare_of = [context_tokens - sum(pieces[index].n_tokens for index in row) for row in rows]
    of_module: dict[str, list[int]] = defaultdict(list)
    for index in reversed(_beginnings(pieces)):
        of_module[modules[index]].append(index)
    every = [index for module in sorted(of_module) for index in of_module[module]]
    lenders: list[int] = []
    lent: set[int] = set()
    # The most room first: what is too short for one is too short for all that follow.
    for number in sorted(range(len(rows)), key=lambda number: -spare_of[number]):
        row, spare = rows[number], spare_of[number]
        if spare < _FEWEST_LEARNED:
            break
        for waiting in (of_module[modules[row[0]]], every):
            while waiting and (
                waiting[-1] in lent
                or np.count_nonzero(labels_masks[waiting[-1]][:spare]) < _FEWEST_LEARNED
            ):
                waiting.pop()
            lender = waiting[-1] if waiting else None
            if lender is None or lender in row:
                continue
            piece = pieces[lender]
            if np.count_nonzero(labels_masks[lender][spare : piece.end]) >= _FEWEST_LEARNED:
                lent.add(lender)
                lenders.append(lender)
                row.append(len(pieces))
                pieces.append(piece._replace(end=spare))
                pieces[lender] = piece._replace(begin=spare)
                break
    return lenders


def _beginnings(pieces: Sequence[Piece]) -> list[int]:
    """Pieces that open a document of several."""
    return [
        index
        for index, (piece, following) in enumerate(pairwise(pieces))
        if piece.begin == 0 and piece.document == following.document
    ]
