"""Curriculum stages: short and easy documents first, in short rows."""

from collections.abc import Sequence
from typing import Final

_DENSE_BYTES_PER_TOKEN: Final = 2.5  # fewer: text that is rare for the tokenizer (symbols, hashes)


def curriculum_stage(n_tokens: int, n_bytes: int, stage_tokens: Sequence[int]) -> int:
    """Return a document's stage: the first whose rows hold it, one later if its text is dense.

    Args:
        n_tokens: Its length in tokens.
        n_bytes: Its length in bytes.
        stage_tokens: Capacity of the rows of each stage, ascending; empty without a curriculum.

    Returns:
        The stage, from 1, or 0 without a curriculum. A document longer than every row is split
        into chunks in the last stage.

    >>> [curriculum_stage(n, 4 * n, [256, 512, 1024]) for n in (200, 300, 9000)]
    [1, 2, 3]
    >>> curriculum_stage(200, 400, [256, 512, 1024])
    2
    """
    if not stage_tokens:
        return 0
    last = len(stage_tokens)
    by_length = next(
        (stage for stage, capacity in enumerate(stage_tokens, 1) if n_tokens <= capacity), last
    )
    is_dense = n_bytes < _DENSE_BYTES_PER_TOKEN * n_tokens
    return min(last, by_length + is_dense)
