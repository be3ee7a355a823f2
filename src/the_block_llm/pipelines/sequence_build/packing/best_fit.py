"""Which pieces share a row."""

from collections import defaultdict
from collections.abc import Sequence

from the_block_llm.errors import ChunkTooLongError


def best_fit(lengths: Sequence[int], context_tokens: int) -> list[list[int]]:
    """Group pieces, longest first, into rows of at most ``context_tokens`` (Ding et al. 2024).

    Rows are sought by how much room they have left, in a bit mask with one bit a token of
    room, so a million pieces take seconds.

    Args:
        lengths: Tokens in each piece, each in ``[1, context_tokens]``.
        context_tokens: Capacity of a row.

    Returns:
        For each row the indices it holds, in order; rows in order of their first index. Every
        index appears exactly once.

    Raises:
        ChunkTooLongError: A piece is longer than a row.

    >>> best_fit([3, 5, 2, 4], context_tokens=6)
    [[0], [1], [2, 3]]
    """
    if lengths and max(lengths) > context_tokens:
        raise ChunkTooLongError(
            f"A piece has {max(lengths)} tokens, and a row holds {context_tokens}."
        )
    rows: list[list[int]] = []
    rows_with_room: dict[int, list[int]] = defaultdict(list)
    rooms = 0  # bit r is set where some row has room for r tokens
    # Longest first: short pieces then fill the gaps. Sorting is stable, so equal lengths keep
    # their order and neighbours in the repository stay near each other.
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[index]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = rows_with_room[room].pop(0)
            if not rows_with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, row = context_tokens, len(rows)
            rows.append([])
        rows[row].append(index)
        left = room - length
        if left:
            rows_with_room[left].append(row)
            rooms |= 1 << left
    return sorted(sorted(row) for row in rows)
