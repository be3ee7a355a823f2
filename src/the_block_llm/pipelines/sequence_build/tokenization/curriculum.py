"""Stages of a curriculum: short and easy documents first, in short rows."""

from collections.abc import Sequence
from typing import Final

DENSE_BYTES_PER_TOKEN: Final = 2.5
"""Text of fewer bytes a token is rare to the tokenizer (symbols, hashes, tables): harder."""


def stage_of(n_tokens: int, n_bytes: int, stage_tokens: Sequence[int]) -> int:
    """The stage of a document: the first whose rows hold it, one later where it is dense.

    Args:
        n_tokens: Its length.
        n_bytes: Of its text.
        stage_tokens: Capacity of the rows of each stage, ascending; none: no curriculum.

    Returns:
        From 1 on, or 0 where there is no curriculum. What is longer than every row is cut in
        the last stage.

    >>> [stage_of(n, 4 * n, [256, 512, 1024]) for n in (200, 300, 9000)]
    [1, 2, 3]
    >>> stage_of(200, 400, [256, 512, 1024])
    2
    """
    if not stage_tokens:
        return 0
    last = len(stage_tokens)
    by_length = next((k for k, most in enumerate(stage_tokens, 1) if n_tokens <= most), last)
    is_dense = n_bytes < DENSE_BYTES_PER_TOKEN * n_tokens
    return min(last, by_length + is_dense)
