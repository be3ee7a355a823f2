"""Negative controls: the verdict on randomly swapped arms, where no difference exists.

Base and tuned are swapped at random, cluster by cluster. Any finding is then a false positive,
so the fraction of findings estimates the false-positive rate on these items.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from the_block_llm.pipelines.behavioral_eval.analysis.paired_metrics import PairedMetric
from the_block_llm.pipelines.behavioral_eval.analysis.verdict import (
    judge_comparisons,
    reach_verdict,
)

# Enough to resolve 0.05 divided by the number of metrics.
_RESAMPLES: Final = 400


def run_negative_controls(
    metrics: Sequence[PairedMetric], shuffles: int, seed: int
) -> dict[str, Any]:
    """Reach a verdict on each of ``shuffles`` random swaps of the arms.

    Args:
        metrics: Paired values of the real evaluation.
        shuffles: Number of random swaps.
        seed: Seed of the swaps.

    Returns:
        ``shuffles``, and the number of verdicts ``better`` and ``worse``.
    """
    rng = random.Random(seed)  # noqa: S311
    outcomes: Counter[str] = Counter()
    for shuffle in range(shuffles):
        # One draw per cluster for all metrics, which are not independent within a cluster.
        clusters = sorted({item.cluster for metric in metrics for item in metric.items})
        swapped = {cluster for cluster in clusters if rng.random() < 0.5}
        judged = judge_comparisons(
            [_swap_arms(metric, swapped).compare(_RESAMPLES, shuffle) for metric in metrics]
        )
        outcomes[reach_verdict(judged).outcome] += 1
    return {"shuffles": shuffles, "better": outcomes["better"], "worse": outcomes["worse"]}


def _swap_arms(metric: PairedMetric, clusters: set[str]) -> PairedMetric:
    return replace(
        metric,
        items=tuple(
            replace(item, first=item.second, second=item.first)
            if item.cluster in clusters
            else item
            for item in metric.items
        ),
    )
