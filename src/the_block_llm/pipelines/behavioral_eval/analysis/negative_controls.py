"""Does this evaluation cry "better" where nothing differs?

Base and tuned are swapped at random, source by source. Whatever is found then is chance, so
the share of findings shows how often this very evaluation, on these very items, is fooled.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from the_block_llm.pipelines.behavioral_eval.analysis.comparisons import PairedMeasure
from the_block_llm.pipelines.behavioral_eval.analysis.verdict import judge_measures, reach_verdict

# Enough to resolve 0.05 divided by the number of measures.
_RESAMPLES: Final = 400


def calibrate(measures: Sequence[PairedMeasure], shuffles: int, seed: int) -> dict[str, Any]:
    """Reach a verdict on each of ``shuffles`` random swaps of the arms.

    Returns:
        ``shuffles``, and how many said ``better`` and ``worse``.
    """
    source = random.Random(seed)  # noqa: S311
    outcomes: Counter[str] = Counter()
    for shuffle in range(shuffles):
        # One coin a source: the measures of one commit hang together.
        clusters = sorted({item.cluster for measure in measures for item in measure.items})
        swapped = {cluster for cluster in clusters if source.random() < 0.5}
        judged = judge_measures(
            [_swap(measure, swapped).compared(_RESAMPLES, shuffle) for measure in measures]
        )
        outcomes[reach_verdict(judged).outcome] += 1
    return {"shuffles": shuffles, "better": outcomes["better"], "worse": outcomes["worse"]}


def _swap(measure: PairedMeasure, clusters: set[str]) -> PairedMeasure:
    return replace(
        measure,
        items=tuple(
            replace(item, first=item.second, second=item.first)
            if item.cluster in clusters
            else item
            for item in measure.items
        ),
    )
