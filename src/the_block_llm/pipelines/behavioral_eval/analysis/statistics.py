"""Is a difference between two arms more than chance? Paired by item, clustered by source.

Items of one commit resemble each other, so chance is measured between commits (or files),
never between their items. An interval comes from resampling whole clusters, a p-value from
swapping the two arms within whole clusters, which needs no assumption about distributions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_CLUSTERS: Final = 8
_CONFIDENCE: Final = 0.95
# Two-sided 5 % and 80 % power: 1.96 + 0.84 standard errors.
_DETECTABLE_ERRORS: Final = 2.8
_CHUNK: Final = 256


@dataclass(frozen=True)
class PairedItem:
    """One item, measured in both arms."""

    cluster: str
    weight: float
    first: float
    second: float


@dataclass(frozen=True)
class Difference:
    """Second arm against first, as ratios of sums: Σ value ÷ Σ weight."""

    n_items: int
    n_clusters: int
    first: float
    second: float
    difference: float
    """Second minus first."""
    low: float
    high: float
    """95 % bootstrap interval of the difference."""
    p_value: float
    """Two-sided, by swapping arms within clusters."""
    detectable: float | None
    """Smallest difference found four times in five with this many items; none: one source."""


def compare(items: Sequence[PairedItem], resamples: int, seed: int) -> Difference:
    """Compare the arms over ``items``; at least one.

    The same items and seed give the same figures.
    """
    names = sorted({item.cluster for item in items})
    place = {name: index for index, name in enumerate(names)}
    sums = np.zeros((len(names), 3))  # weight, first, second
    for item in items:
        sums[place[item.cluster]] += (item.weight, item.first, item.second)
    weight, first, second = sums.sum(axis=0)
    generator = np.random.default_rng(seed)
    drawn = _bootstrap(sums, resamples, generator)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Difference(
        n_items=len(items),
        n_clusters=len(names),
        first=float(first / weight),
        second=float(second / weight),
        difference=float((second - first) / weight),
        low=float(low),
        high=float(high),
        p_value=_sign_flip(sums[:, 2] - sums[:, 1], resamples, generator),
        detectable=float(_DETECTABLE_ERRORS * drawn.std(ddof=1)) if len(names) > 1 else None,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for having tested several times (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = highest
    return corrected


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that right and wrong answers changed sides by chance.

    Args:
        only_first: Items that only the first arm got right.
        only_second: Items that only the second arm got right.

    >>> mcnemar(1, 9)
    0.021484375
    """
    changed = only_first + only_second
    fewer = min(only_first, only_second)
    tail = sum(math.comb(changed, count) for count in range(fewer + 1)) / 2**changed
    return min(1.0, 2 * tail)


def _bootstrap(
    sums: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Differences of ratios over clusters drawn with replacement, ``(resamples,)``."""
    n = len(sums)
    parts = []
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        times = generator.multinomial(n, np.full(n, 1 / n), size=count)
        total = times @ sums
        parts.append((total[:, 2] - total[:, 1]) / total[:, 0])
    return np.concatenate(parts)


def _sign_flip(
    differences: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> float:
    """Share of arm swaps that give a difference at least as large as the one seen.

    The unswapped arrangement counts as one of them, so the p-value is never zero and never
    too small.
    """
    seen = abs(differences.sum())
    # Rounding must not make an equal sum look smaller.
    threshold = seen - 1e-9 * max(1.0, float(np.abs(differences).sum()))
    extreme = 0
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        signs = generator.choice((-1.0, 1.0), size=(count, len(differences)))
        extreme += int((np.abs(signs @ differences) >= threshold).sum())
    return (extreme + 1) / (resamples + 1)
