"""Further models: an earlier adapter and another profile, on the same items."""

import json
from collections import Counter

import pyarrow as pa
import pytest
from tests.builders.advised_repository import write_adapter
from tests.builders.tiny_llama import save_tiny_llama, tiny_profile

from the_block_llm import schemas
from the_block_llm.errors import AdapterError, ProfileError
from the_block_llm.models.adapter.manifest import open_adapter
from the_block_llm.models.profiles import ModelProfiles
from the_block_llm.pipelines.behavioral_eval.report.html_report import render
from the_block_llm.pipelines.behavioral_eval.report.report import build_report
from the_block_llm.pipelines.behavioral_eval.runner.runner import (
    EvaluationInputs,
    evaluate_all,
    evaluate_further_model,
    resolve_further_models,
)
from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem
from the_block_llm.retrieval.citations import known_names
from the_block_llm.retrieval.passages import PassageIndex

FIRST, SECOND = "2026-01-01T00.00.00Z", "2026-01-02T00.00.00Z"
ITEM = ChoiceItem("also_changed", "t/1", "c", "one two", (" three", " nine hundred"), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_llama(folder / "llama")
    for seed, version in enumerate((FIRST, SECOND)):
        write_adapter(folder, version, seed)
    return folder


@pytest.fixture
def profiles(folder):
    tiny = tiny_profile(folder / "llama").model_dump(exclude={"name"})
    return ModelProfiles.model_validate(
        {"tiny": tiny, "other": tiny, "coder": {**tiny, "role": "completion"}}
    )


@pytest.fixture
def evaluated(folder):
    return open_adapter(folder / "06_models" / "tiny" / SECOND)


@pytest.fixture
def inputs(plan, held_out):
    return EvaluationInputs(plan, *held_out, [ITEM], PassageIndex([]))


@pytest.mark.parametrize("name", [FIRST, f"tiny@{FIRST}"])
def test_an_earlier_adapter_is_found_by_its_version(evaluated, profiles, name):
    [further_model] = resolve_further_models([name], evaluated, profiles)
    assert further_model.name == f"tiny@{FIRST}"
    assert further_model.has_same_tokenizer


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        (SECOND, AdapterError, "evaluated anyway"),
        ("tiny@base", AdapterError, "evaluated anyway"),
        ("2020-01-01T00.00.00Z", AdapterError, FIRST),
        (f"other@{FIRST}", AdapterError, "Available: none. other@base"),
        ("nobody@base", ProfileError, "nobody"),
        (f"tiny@../tiny/{FIRST}", AdapterError, "Available: 2026"),
    ],
)
def test_an_unknown_model_is_an_error_that_lists_the_available_ones(
    evaluated, profiles, name, error, words
):
    with pytest.raises(error, match=words):
        resolve_further_models([name], evaluated, profiles)


def test_all_models_answer_the_same_items_and_one_is_loaded_at_a_time(
    evaluated, profiles, inputs, params, monkeypatch
):
    further_models = resolve_further_models(
        [FIRST, "other@base", "coder@base"], evaluated, profiles
    )
    profile = tiny_profile(profiles.root["tiny"].folder)
    answers, scores = evaluate_all(evaluated, profile, further_models, inputs, params)
    pa.Table.from_pylist(answers, schemas.COMPLETIONS)
    pa.Table.from_pylist(scores, schemas.ITEM_SCORES)
    by_arm = {
        arm: Counter(row["task"] for row in scores if row["arm"] == arm)
        for arm in dict.fromkeys(row["arm"] for row in scores)
    }
    assert list(by_arm) == ["base", "tuned", f"tiny@{FIRST}", "other@base", "coder@base"]
    assert by_arm[f"tiny@{FIRST}"] == by_arm["tuned"] == by_arm["base"]
    # The held-out rows are packed with the tokenizer of the evaluated profile.
    assert by_arm["other@base"] == by_arm["coder@base"]
    assert set(by_arm["base"]) - set(by_arm["other@base"]) == {"held_out"}
    # A completion model is not asked the advisor's questions.
    assert set(Counter(row["arm"] for row in answers)) == set(by_arm) - {"coder@base"}
    values = {
        arm: [row["value"] for row in scores if row["arm"] == arm and row["task"] == "held_out"]
        for arm in ("base", "tuned", f"tiny@{FIRST}")
    }
    assert values["base"] != values["tuned"] != values[f"tiny@{FIRST}"] != values["base"]

    report = build_report(
        inputs.plan, answers, scores, known_names([], []), params, {"profile": "tiny"}
    )
    pairs = {(pair["first"], pair["second"]) for pair in report["also_compared"]}
    assert pairs == {(name, "tuned") for name in list(by_arm)[2:]}
    page = render(json.loads(json.dumps(report)))
    assert f"This adapter instead of tiny@{FIRST}" in page

    # Every result is cached, so no model is called again.
    for function in ("runner.likelihood.measure_rows", "runner.generate.generate"):
        monkeypatch.setattr(f"the_block_llm.pipelines.behavioral_eval.{function}", fail)
    monkeypatch.setattr("the_block_llm.models.inference.likelihood._score_batch", fail)
    assert evaluate_all(evaluated, profile, further_models, inputs, params) == (answers, scores)


def fail(*_args, **_kwargs):
    raise AssertionError("a model was called for a cached result")


def test_the_arm_of_a_further_model_has_its_name(
    evaluated, profiles, inputs, params, evaluated_model
):
    [further_model] = resolve_further_models([FIRST], evaluated, profiles)
    answers, scores = evaluate_further_model(evaluated_model, further_model, inputs, params)
    assert {row["arm"] for row in (*answers, *scores)} == {further_model.name}


def test_lists_can_be_given_as_a_space_separated_string(params):
    parameters = {**params.model_dump(), "suites": "general blockchain", "arms": "base tuned"}
    parsed = type(params).model_validate(parameters)
    assert parsed.suites == ("general", "blockchain")
    assert parsed.arms == ("base", "tuned")
