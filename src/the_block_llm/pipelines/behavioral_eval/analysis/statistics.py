"""Paired, clustered statistics for the difference between two arms.

Items of one commit are not independent, so commits (or files) are the sampling unit, not
items. Confidence intervals come from a cluster bootstrap; p-values come from a sign-flip
permutation test that swaps the arms of whole clusters and assumes no distribution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_CLUSTERS: Final = 8
_CONFIDENCE: Final = 0.95
# Minimum detectable effect at a two-sided 5 % level and 80 % power: 1.96 + 0.84 standard errors.
_DETECTABLE_STANDARD_ERRORS: Final = 2.8
_RESAMPLES_PER_CHUNK: Final = 256


@dataclass(frozen=True)
class PairedItem:
    """One item, measured in both arms."""

    cluster: str
    weight: float
    first: float
    second: float


@dataclass(frozen=True)
class PairedDifference:
    """Difference between two arms, as ratios of sums: Σ value ÷ Σ weight."""

    n_items: int
    n_clusters: int
    first: float
    second: float
    difference: float
    """Second minus first."""
    low: float
    high: float
    """95 % bootstrap confidence interval of the difference."""
    p_value: float
    """Two-sided p-value of the sign-flip test."""
    detectable: float | None
    """Minimum detectable difference at 80 % power; ``None`` for a single cluster."""


def paired_bootstrap(items: Sequence[PairedItem], resamples: int, seed: int) -> PairedDifference:
    """Estimate the difference between two arms, with a confidence interval and a p-value.

    Args:
        items: Paired items; at least one.
        resamples: Resamples of the bootstrap and of the permutation test, each.
        seed: The result is a function of items, resamples and seed.
    """
    clusters = sorted({item.cluster for item in items})
    index_of = {name: index for index, name in enumerate(clusters)}
    sums = np.zeros((len(clusters), 3))  # weight, first, second
    for item in items:
        sums[index_of[item.cluster]] += (item.weight, item.first, item.second)
    weight, first, second = sums.sum(axis=0)
    rng = np.random.default_rng(seed)
    bootstrap_differences = _cluster_bootstrap(sums, resamples, rng)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(bootstrap_differences, [tail, 1 - tail])
    p_value = _sign_flip_p_value(sums[:, 2] - sums[:, 1], resamples, rng)
    detectable = _DETECTABLE_STANDARD_ERRORS * bootstrap_differences.std(ddof=1)
    return PairedDifference(
        n_items=len(items),
        n_clusters=len(clusters),
        first=float(first / weight),
        second=float(second / weight),
        difference=float((second - first) / weight),
        low=float(low),
        high=float(high),
        p_value=p_value,
        detectable=float(detectable) if len(clusters) > 1 else None,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple testing by the step-down method of Holm (1979).

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
    """Return the two-sided p-value of McNemar's exact test.

    Args:
        only_first: Number of items that only the first arm got right.
        only_second: Number of items that only the second arm got right.

    >>> mcnemar(1, 9)
    0.021484375
    """
    n_discordant = only_first + only_second
    fewer = min(only_first, only_second)
    tail = sum(math.comb(n_discordant, count) for count in range(fewer + 1)) / 2**n_discordant
    return min(1.0, 2 * tail)


def _cluster_bootstrap(
    sums: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Resample clusters with replacement.

    Args:
        sums: Sums of weight, first and second value of each cluster, shape ``(clusters, 3)``.
        resamples: Number of resamples.
        rng: Random number generator.

    Returns:
        Difference of the ratios in each resample, shape ``(resamples,)``.
    """
    n_clusters = len(sums)
    chunks = []
    for start in range(0, resamples, _RESAMPLES_PER_CHUNK):
        n = min(_RESAMPLES_PER_CHUNK, resamples - start)
        counts = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n)
        totals = counts @ sums
        chunks.append((totals[:, 2] - totals[:, 1]) / totals[:, 0])
    return np.concatenate(chunks)


def _sign_flip_p_value(
    differences: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> float:
    """Return the fraction of sign flips with a sum at least as large as the observed one.

    The observed assignment is counted as one of them, which keeps the test valid and the
    p-value above zero (Phipson and Smyth 2010).

    Args:
        differences: Difference of each cluster, shape ``(clusters,)``.
        resamples: Number of random sign assignments.
        rng: Random number generator.
    """
    observed = abs(differences.sum())
    # Tolerance, so that rounding does not make an equal sum smaller.
    threshold = observed - 1e-9 * max(1.0, float(np.abs(differences).sum()))
    n_extreme = 0
    for start in range(0, resamples, _RESAMPLES_PER_CHUNK):
        n = min(_RESAMPLES_PER_CHUNK, resamples - start)
        signs = rng.choice((-1.0, 1.0), size=(n, len(differences)))
        n_extreme += int((np.abs(signs @ differences) >= threshold).sum())
    return (n_extreme + 1) / (resamples + 1)
