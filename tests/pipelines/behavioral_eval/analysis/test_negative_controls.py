import random

from the_block_llm.pipelines.behavioral_eval.analysis.negative_controls import run_negative_controls
from the_block_llm.pipelines.behavioral_eval.analysis.paired_metrics import PairedMetric
from the_block_llm.pipelines.behavioral_eval.analysis.statistics import PairedItem

# Upper bound for 200 shuffles at 5 %: exceeded by chance in one run of a thousand.
MAX_FALSE_POSITIVES = 20


def paired(name, weight, effect, n_clusters, spread=0.1):
    rng = random.Random(name)
    items = []
    for number in range(n_clusters):
        shift = rng.gauss(effect, spread)
        for _ in range(3):
            base = rng.uniform(0.8, 1.2)
            noise = rng.gauss(0, 0.02)
            items.append(PairedItem(f"s{number}", 1.0, base, base + shift + noise))
    unit = "bits per byte" if weight == "primary" else "right answers"
    return PairedMetric(name, name, unit, weight, tuple(items))


def test_swapped_arms_are_rarely_judged_better_or_worse():
    # The real difference is large; the swaps must hide it.
    metrics = [paired("held_out", "primary", -0.3, 20), paired("task", "knowledge", 0.2, 12)]
    result = run_negative_controls(metrics, shuffles=200, seed=1)
    assert result["shuffles"] == 200
    assert result["better"] <= MAX_FALSE_POSITIVES
    assert result["worse"] <= MAX_FALSE_POSITIVES


def test_few_skewed_clusters_rarely_give_false_positives():
    rng = random.Random(3)
    items = tuple(
        PairedItem(f"s{n}", rng.uniform(1, 500), 1.0, 1.0 - rng.paretovariate(1.2))
        for n in range(9)
    )
    metric = PairedMetric("held_out", "Held out", "bits per byte", "primary", items)
    assert run_negative_controls([metric], shuffles=200, seed=2)["better"] <= MAX_FALSE_POSITIVES
