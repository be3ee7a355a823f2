"""Documents that are longer than a row, cut into pieces that follow on one another."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# A cut is looked for in the last quarter of what fits: further back, rows would have to be
# filled by much smaller documents than there are.
_SEARCHED = 4
_NOWHERE = (0, 0)
_SHARE_OF_PLACE = 4  # of the overlap, that a line may take which says where one is


class Piece(NamedTuple):
    """Tokens ``[begin, end)`` of a document, after some that came before.

    What is repeated is shown, never learned: every token is learned in exactly one piece. It is
    ``[0, head)``; ``place``, a line that says where in the document one is; ``[context, begin)``.
    """

    document: int
    head: int
    context: int
    begin: int
    end: int
    place: tuple[int, int] = _NOWHERE

    @property
    def n_tokens(self) -> int:
        return self.head + self.place[1] - self.place[0] + self.end - self.context

    def widened(self, spare_tokens: int) -> "Piece":
        """The piece with up to ``spare_tokens`` more of what stands before it."""
        if self.begin == 0:
            return self
        context = max(self.head, self.context - spare_tokens)
        if self.place != _NOWHERE:
            if context >= self.place[1]:
                return self._replace(context=context)
            # The line comes into sight, so it need not stand there a second time.
            length = self.place[1] - self.place[0]
            context = max(self.head, self.context - spare_tokens - length)
        if context > self.head:
            return Piece(self.document, self.head, context, self.begin, self.end)
        # Everything before it is there again, the head in its own place.
        return Piece(self.document, 0, 0, self.begin, self.end)


def cut(
    document: int,
    n_tokens: int,
    head_tokens: int,
    strength: npt.NDArray[np.int8],
    context_tokens: int,
    overlap_tokens: int,
    place_before: Callable[[int], tuple[int, int]] = lambda _: _NOWHERE,
) -> list[Piece]:
    """Cut one document.

    Args:
        document: Its index, handed through.
        n_tokens: Its length.
        head_tokens: Opening tokens to repeat in every piece; left out where they are more
            than half of the overlap.
        strength: How good a cut before each token is, shape ``(n_tokens,)``; see
            :mod:`~the_block_llm.pipelines.sequence_build.code.boundaries`.
        context_tokens: Capacity of a row.
        overlap_tokens: Repeated at the start of a piece, head included. At least one token
            is, or the first token of a piece would follow on nothing and never be learned.
        place_before: For the first token of a piece, the tokens ``[first, last)`` of a line
            before it that says where one is; empty where there is none. It is repeated where it
            takes no more than a quarter of the overlap and is not repeated anyway.

    Returns:
        Pieces of at most ``context_tokens``; their ``[begin, end)`` cover the document once.

    >>> flat = np.zeros(10, np.int8)
    >>> [(p.context, p.begin, p.end) for p in cut(0, 10, 0, flat, 6, 2)]
    [(0, 0, 6), (4, 6, 10)]
    """
    if n_tokens <= context_tokens:
        return [Piece(document, 0, 0, 0, n_tokens)]
    overlap = max(1, overlap_tokens)
    head = head_tokens if head_tokens * 2 <= overlap else 0
    pieces: list[Piece] = []
    begin = 0
    while begin < n_tokens:
        context, repeated_head = begin - (overlap - head), head
        if begin == 0 or context <= head:
            # All that stands before it fits, the head in its own place.
            context, repeated_head = 0, 0
        place = place_before(begin) if context else _NOWHERE
        length = place[1] - place[0]
        if not (head <= place[0] < place[1] <= context and length * _SHARE_OF_PLACE <= overlap):
            place, length = _NOWHERE, 0
        context += length
        room = context_tokens - repeated_head - length - (begin - context)
        end = min(n_tokens, begin + room)
        if end < n_tokens:
            end = _best_border(strength, begin + room - room // _SEARCHED, end)
        pieces.append(Piece(document, repeated_head, context, begin, end, place))
        begin = end
    return pieces


def token_strength(
    starts: npt.NDArray[np.int64],
    of_starts: npt.NDArray[np.int8],
    token_ends: npt.NDArray[np.int64],
) -> npt.NDArray[np.int8]:
    """Turn the strength of cuts before bytes into that of cuts before tokens.

    A border inside a token (GPT-2 joins a newline with the indent that follows) counts for
    the cut before that token.

    Args:
        starts: Bytes that have a border before them, ascending.
        of_starts: How good a cut before each is, of the same shape.
        token_ends: Bytes of text up to and with each token, shape ``(tokens,)``; a mark, which
            stands for none, ends where the token before it does.
    """
    strength = np.zeros(len(token_ends), np.int8)
    np.maximum.at(strength, np.searchsorted(token_ends, starts, side="right"), of_starts)
    return strength


def without_targets(pieces: Sequence[Piece], labels_mask: npt.NDArray[np.bool_]) -> Iterator[Piece]:
    """The pieces in which something is learned."""
    return (piece for piece in pieces if labels_mask[piece.begin : piece.end].any())


def last_target(piece: Piece, labels_mask: npt.NDArray[np.bool_]) -> int:
    """Place in the document of the last token that the piece teaches; it has one."""
    return piece.end - 1 - int(np.argmax(labels_mask[piece.begin : piece.end][::-1]))


def fill_up(
    pieces: Sequence[Piece],
    rows: Sequence[Sequence[int]],
    context_tokens: int,
    last_targets: Sequence[int],
) -> list[Piece]:
    """Use the room that packing left in rows.

    First a piece that continues a document shows more of what stands before it. Where there is
    none, a piece goes on past its border: the tokens that it takes from the next piece are
    repeated context there instead, so that one stays as long as it was, and teaches something.

    Args:
        pieces: Those of one document in order, one after another.
        rows: Indices of the pieces in each row.
        context_tokens: Capacity of a row.
        last_targets: Of each piece, see :func:`last_target`.

    >>> first, last = Piece(0, 0, 0, 0, 5), Piece(0, 0, 3, 5, 9)
    >>> [(p.context, p.begin, p.end) for p in fill_up([first, last], [[0], [1]], 7, [4, 8])]
    [(0, 0, 7), (2, 7, 9)]
    """
    filled = list(pieces)
    for row in rows:
        spare = context_tokens - sum(filled[index].n_tokens for index in row)
        for index in row if spare else ():
            wider = filled[index].widened(spare)
            spare -= wider.n_tokens - filled[index].n_tokens
            filled[index] = wider
        for index in row if spare else ():
            following = filled[index + 1] if index + 1 < len(filled) else None
            piece = filled[index]
            if following is None or (following.document, following.begin) != (
                piece.document,
                piece.end,
            ):
                continue
            taken = min(spare, last_targets[index + 1] - following.begin)
            filled[index] = piece._replace(end=piece.end + taken)
            filled[index + 1] = following._replace(begin=following.begin + taken)
            spare -= taken
    return filled


def _best_border(strength: npt.NDArray[np.int8], first: int, last: int) -> int:
    window = strength[first : last + 1]
    if not window.any():
        return last
    # The last of the best: the fuller the piece, the fewer rows.
    return first + len(window) - 1 - int(np.argmax(window[::-1]))
