"""Best-fit-decreasing bin packing of chunks into rows."""

from collections import defaultdict
from collections.abc import Sequence

from the_block_llm.errors import ChunkTooLongError


def best_fit(lengths: Sequence[int], context_tokens: int) -> list[list[int]]:
    """Group chunks, longest first, into rows of at most ``context_tokens`` (Ding et al. 2024).

    Rows are found by their free tokens, in a bit mask with one bit for each number of tokens, so
    packing a million chunks takes seconds.

    Args:
        lengths: Tokens in each chunk, each in ``[1, context_tokens]``.
        context_tokens: Capacity of a row.

    Returns:
        For each row the indices it holds, ascending; rows in order of their first index. Every
        index appears exactly once.

    Raises:
        ChunkTooLongError: A chunk is longer than a row.

    >>> best_fit([3, 5, 2, 4], context_tokens=6)
    [[0], [1], [2, 3]]
    """
    if lengths and max(lengths) > context_tokens:
        raise ChunkTooLongError(
            f"A chunk has {max(lengths)} tokens, and a row holds {context_tokens}."
        )
    rows: list[list[int]] = []
    rows_by_free: dict[int, list[int]] = defaultdict(list)
    free_mask = 0  # bit n is set if some row has n free tokens
    # Longest first: short chunks then fill the gaps. The sort is stable, so chunks of equal length
    # keep their order and files next to each other in the repository stay close.
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[index]
        fitting = free_mask >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = rows_by_free[free].pop(0)
            if not rows_by_free[free]:
                free_mask &= ~(1 << free)
        else:
            free, row = context_tokens, len(rows)
            rows.append([])
        rows[row].append(index)
        remaining = free - length
        if remaining:
            rows_by_free[remaining].append(row)
            free_mask |= 1 << remaining
    return sorted(sorted(row) for row in rows)
