"""Negative log-likelihoods of continuations of one prefix, in nats."""

from collections.abc import Sequence
from typing import Any

from the_block_llm.models.inference.likelihood import PrefixedContinuations, score_continuations


def continuation_nll(
    model: Any, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[float]:
    nll_by_index: dict[int, list[float]] = {}
    score_continuations(
        model,
        [PrefixedContinuations(prefix, continuations)],
        cache_gib=1.0,
        on_scored=nll_by_index.__setitem__,
    )
    return nll_by_index[0]
