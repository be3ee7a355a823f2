import random
from itertools import product

import pytest

from the_block_llm.pipelines.behavioral_eval.analysis.statistics import (
    PairedItem,
    holm,
    mcnemar,
    paired_bootstrap,
)


def items(pairs, per_cluster=1, weight=1.0):
    return [
        PairedItem(f"c{index // per_cluster}", weight, first, second)
        for index, (first, second) in enumerate(pairs)
    ]


def test_ratios_are_weighted_by_item_weight():
    result = paired_bootstrap(
        [PairedItem("a", 1, 2, 1), PairedItem("b", 9, 9, 9), PairedItem("c", 10, 9, 10)], 200, 0
    )
    assert (result.first, result.second, result.difference) == (1.0, 1.0, 0.0)
    assert (result.n_items, result.n_clusters) == (3, 3)


def test_a_consistent_difference_is_significant_and_inside_its_interval():
    rng = random.Random(1)
    pairs = [(x, x - 0.1 + rng.gauss(0, 0.02)) for x in (rng.random() for _ in range(40))]
    result = paired_bootstrap(items(pairs), 2000, 0)
    assert result.low < result.difference < result.high < 0
    assert result.difference == pytest.approx(-0.1, abs=0.02)
    assert result.p_value < 0.001
    assert result.detectable < 0.02


def test_sign_flip_p_value_agrees_with_exhaustive_enumeration():
    differences = [0.9, -0.2, 0.4, 0.7, 0.1, 0.6, -0.3, 0.8]
    result = paired_bootstrap(items([(0.0, d) for d in differences]), 20_000, 0)
    total = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=8)
    ]
    exact = sum(value >= total - 1e-9 for value in sums) / len(sums)
    assert result.p_value == pytest.approx(exact, abs=0.01)


def test_items_of_one_cluster_are_not_independent():
    pairs = [(0.0, 1.0)] * 40 + [(0.0, -0.5)] * 40
    separate = paired_bootstrap(items(pairs), 2000, 0)
    clustered = paired_bootstrap(items(pairs, per_cluster=40), 2000, 0)
    assert separate.p_value < 0.05 < clustered.p_value
    assert clustered.n_clusters == 2


def test_identical_arms_have_a_p_value_of_one():
    result = paired_bootstrap(items([(0.3, 0.3)] * 20), 500, 0)
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_a_single_cluster_has_no_detectable_difference():
    assert paired_bootstrap(items([(0.0, 1.0)]), 200, 0).detectable is None


def test_the_same_seed_gives_the_same_result():
    pairs = [(random.Random(i).random(), random.Random(-i - 1).random()) for i in range(12)]
    assert paired_bootstrap(items(pairs), 500, 7) == paired_bootstrap(items(pairs), 500, 7)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
    ],
)
def test_holm(p_values, corrected):
    assert holm(p_values) == pytest.approx(corrected)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 0.0625),
        (0, 6, 0.03125),
        (1, 9, 0.021484375),
        (9, 1, 0.021484375),
    ],
)
def test_mcnemar(only_first, only_second, p_value):
    assert mcnemar(only_first, only_second) == p_value
