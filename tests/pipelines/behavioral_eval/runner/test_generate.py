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


def answer(evaluated_model, plan, params, arms=("base", "tuned"), sampling=GREEDY):
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
    rows = answer(evaluated_model, plan, params)
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


def test_only_prompts_of_arms_with_retrieval_contain_passages(evaluated_model, plan, params):
    rows = {row["arm"]: row for row in answer(evaluated_model, plan, params, ARMS)[::2]}
    assert list(rows) == list(ARMS)
    assert rows["base"]["retrieved"] == rows["tuned"]["retrieved"] == []
    for arm in ("base_retrieval", "tuned_retrieval"):
        assert rows[arm]["retrieved"] == ["docs/cache.md"]
        assert "where a block is reverted" in rows[arm]["prompt"]


def test_greedy_decoding_uses_one_seed_and_sampling_all(evaluated_model, plan, params):
    def answers_by_seed(sampling):
        rows = answer(evaluated_model, plan, params, ["base"], sampling)
        return Counter(row["seed"] for row in rows)

    assert answers_by_seed(Sampling(temperature=0, seeds=(1, 2, 3))) == {1: 2}
    assert answers_by_seed(Sampling(temperature=0.7, seeds=(1, 2, 3))) == {1: 2, 2: 2, 3: 2}


class InterruptedRunError(Exception):
    pass


def test_an_interrupted_run_resumes_with_the_same_answers(
    evaluated_model, plan, params, monkeypatch
):
    uninterrupted = answer(evaluated_model, plan, params)
    fresh = params.model_copy(update={"result_cache_folder": params.result_cache_folder + "-2"})
    real = generate.generate
    generated = []

    def interrupted_generate(model, tokenizer, prompts, decoding, *, on_completion, **settings):
        def store(index, completion):
            on_completion(index, completion)
            raise InterruptedRunError

        real(
            model,
            tokenizer,
            prompts,
            decoding,
            **{**settings, "batch_rows": 1},
            on_completion=store,
        )

    def recording_generate(model, tokenizer, prompts, *rest, **settings):
        generated.extend(prompts)
        real(model, tokenizer, prompts, *rest, **settings)

    monkeypatch.setattr(generate, "generate", interrupted_generate)
    with pytest.raises(InterruptedRunError):
        answer(evaluated_model, plan, fresh)
    monkeypatch.setattr(generate, "generate", recording_generate)
    assert answer(evaluated_model, plan, fresh) == uninterrupted
    assert len(generated) == 3
    generated.clear()
    assert answer(evaluated_model, plan, fresh) == uninterrupted
    assert generated == []


def test_another_adapter_reuses_the_answers_of_the_base(evaluated_model, plan, params, monkeypatch):
    answer(evaluated_model, plan, params)
    calls = []
    real = generate.generate
    monkeypatch.setattr(
        generate, "generate", lambda *args, **kwargs: (calls.append(1), real(*args, **kwargs))
    )
    answer(replace(evaluated_model, adapter_id="another"), plan, params)
    assert len(calls) == 1
