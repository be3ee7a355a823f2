import random

from the_block_llm.pipelines.behavioral_eval.analysis.comparisons import PairedMetric
from the_block_llm.pipelines.behavioral_eval.analysis.negative_controls import run_negative_controls
from the_block_llm.pipelines.behavioral_eval.analysis.statistics import PairedItem

# 5 % of 200 shuffles, and what a fair coin of 5 % exceeds in one run of a thousand.
NOMINAL_OF_200 = 20


def paired(name, weight, effect, n_sources, spread=0.1):
    source = random.Random(name)
    items = []
    for number in range(n_sources):
        shift = source.gauss(effect, spread)
        for _ in range(3):
            base = source.uniform(0.8, 1.2)
            noise = source.gauss(0, 0.02)
            items.append(PairedItem(f"s{number}", 1.0, base, base + shift + noise))
    unit = "bits per byte" if weight == "primary" else "right answers"
    return PairedMetric(name, name, unit, weight, tuple(items))


def test_swapped_arms_are_rarely_called_better():
    # The real difference is large; the swaps must hide it all the same.
    metrics = [paired("held_out", "primary", -0.3, 20), paired("task", "knowledge", 0.2, 12)]
    found = run_negative_controls(metrics, shuffles=200, seed=1)
    assert found["shuffles"] == 200
    assert found["better"] <= NOMINAL_OF_200
    assert found["worse"] <= NOMINAL_OF_200


def test_few_and_skewed_sources_are_not_fooled_either():
    source = random.Random(3)
    items = tuple(
        PairedItem(f"s{n}", source.uniform(1, 500), 1.0, 1.0 - source.paretovariate(1.2))
        for n in range(9)
    )
    metric = PairedMetric("held_out", "Held out", "bits per byte", "primary", items)
    assert run_negative_controls([metric], shuffles=200, seed=2)["better"] <= NOMINAL_OF_200
