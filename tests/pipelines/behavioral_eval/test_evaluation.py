from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest
from tests.builders.tiny_adapter import with_noise_adapter
from tests.builders.tiny_llama import tiny_llama

from the_block_llm import schemas
from the_block_llm.pipelines.behavioral_eval.evaluation import answer_probes, measure_held_out
from the_block_llm.pipelines.behavioral_eval.params import Sampling


def probes_of(plan):
    return [(item.suite, item.probe) for item in plan.probes]


def test_every_arm_answers_every_probe(subject, plan, params):
    rows = answer_probes(
        subject, probes_of(plan), params.arms, params.sampling, params.budgets["cpu"]
    )
    assert [(row["arm"], row["probe_id"]) for row in rows] == [
        ("base", "stale"),
        ("base", "tests"),
        ("tuned", "stale"),
        ("tuned", "tests"),
    ]
    base, tuned = rows[0], rows[2]
    assert base["prompt"] == tuned["prompt"]
    assert base["completion"] != tuned["completion"]
    assert base["key"] != tuned["key"]
    assert "chain" in base["prompt"]
    assert "chain" not in base["completion"]
    pa.Table.from_pylist(rows, schemas.COMPLETIONS)


def test_greedy_asks_once_and_draws_once_a_seed(subject, plan, params):
    def asked(sampling):
        rows = answer_probes(subject, probes_of(plan), ["base"], sampling, params.budgets["cpu"])
        return Counter(row["seed"] for row in rows)

    assert asked(Sampling(temperature=0, seeds=(1, 2, 3))) == {1: 2}
    assert asked(Sampling(temperature=0.7, seeds=(1, 2, 3))) == {1: 2, 2: 2, 3: 2}


def test_held_out_rows_are_measured_in_both_arms(subject, held_out):
    rows = measure_held_out(subject, *held_out)
    assert Counter(row["arm"] for row in rows) == {"base": 12, "tuned": 12}
    by_arm = {arm: [r for r in rows if r["arm"] == arm] for arm in ("base", "tuned")}
    for base, tuned in zip(by_arm["base"], by_arm["tuned"], strict=True):
        assert base["item_id"] == tuned["item_id"]
        assert base["weight"] == tuned["weight"] > 0
        assert base["value"] != tuned["value"]
        assert base["key"] != tuned["key"]
    pa.Table.from_pylist(rows, schemas.ITEM_SCORES)


def test_the_base_arm_is_the_model_without_its_adapter(subject, held_out):
    base = [r["value"] for r in measure_held_out(subject, *held_out) if r["arm"] == "base"]
    untouched = replace(subject, model=with_noise_adapter(tiny_llama().eval(), scale=0))
    plain = [r["value"] for r in measure_held_out(untouched, *held_out) if r["arm"] == "tuned"]
    assert base == pytest.approx(plain)
