from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from the_block_llm import schemas
from the_block_llm.pipelines.behavioral_eval.params import ARMS, Sampling
from the_block_llm.pipelines.behavioral_eval.runner import generate
from the_block_llm.pipelines.behavioral_eval.runner.generate import answer_probes
from the_block_llm.retrieval.passages import Passage, PassageIndex

GREEDY = Sampling()
INDEX = PassageIndex(
    [
        Passage("docs/cache.md", "The cache of the chain goes wrong where a block is reverted."),
        Passage("src/vote.rs", "fn count_votes() {}"),
    ]
)


def ask(evaluated_model, plan, params, arms=("base", "tuned"), sampling=GREEDY):
    return answer_probes(
        evaluated_model,
        plan.probes,
        arms,
        sampling,
        params.budgets["cpu"],
        INDEX,
        Path(params.result_cache_folder),
    )


def test_every_arm_answers_every_probe(evaluated_model, plan, params):
    rows = ask(evaluated_model, plan, params)
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


def test_only_the_arms_with_retrieval_see_passages(evaluated_model, plan, params):
    rows = {row["arm"]: row for row in ask(evaluated_model, plan, params, ARMS)[::2]}
    assert list(rows) == list(ARMS)
    assert rows["base"]["retrieved"] == rows["tuned"]["retrieved"] == []
    for arm in ("base_retrieval", "tuned_retrieval"):
        assert rows[arm]["retrieved"] == ["docs/cache.md"]
        assert "where a block is reverted" in rows[arm]["prompt"]


def test_greedy_asks_once_and_draws_once_a_seed(evaluated_model, plan, params):
    def asked(sampling):
        rows = ask(evaluated_model, plan, params, ["base"], sampling)
        return Counter(row["seed"] for row in rows)

    assert asked(Sampling(temperature=0, seeds=(1, 2, 3))) == {1: 2}
    assert asked(Sampling(temperature=0.7, seeds=(1, 2, 3))) == {1: 2, 2: 2, 3: 2}


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_and_gives_the_same_answers(
    evaluated_model, plan, params, monkeypatch
):
    whole = ask(evaluated_model, plan, params)
    fresh = params.model_copy(update={"result_cache_folder": params.result_cache_folder + "-2"})
    real = generate.generate
    asked = []

    def dies_after_one(model, tokenizer, prompts, decoding, *, on_completion, **settings):
        def keep(place, completion):
            on_completion(place, completion)
            raise KilledError

        real(
            model,
            tokenizer,
            prompts,
            decoding,
            **{**settings, "batch_rows": 1},
            on_completion=keep,
        )

    def counts(model, tokenizer, prompts, *rest, **settings):
        asked.extend(prompts)
        real(model, tokenizer, prompts, *rest, **settings)

    monkeypatch.setattr(generate, "generate", dies_after_one)
    with pytest.raises(KilledError):
        ask(evaluated_model, plan, fresh)
    monkeypatch.setattr(generate, "generate", counts)
    assert ask(evaluated_model, plan, fresh) == whole
    assert len(asked) == 3
    asked.clear()
    assert ask(evaluated_model, plan, fresh) == whole
    assert asked == []


def test_another_adapter_asks_the_base_nothing_again(evaluated_model, plan, params, monkeypatch):
    ask(evaluated_model, plan, params)
    arms = []
    real = generate.generate
    monkeypatch.setattr(
        generate, "generate", lambda *args, **kw: (arms.append(1), real(*args, **kw))
    )
    ask(replace(evaluated_model, adapter_id="another"), plan, params)
    assert len(arms) == 1
