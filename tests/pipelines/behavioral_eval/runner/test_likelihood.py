from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest
from tests.builders.tiny_adapter import ADDED_TOKENS, with_added_tokens, with_noise_adapter
from tests.builders.tiny_llama import byte_tokenizer, tiny_llama

from the_block_llm import schemas
from the_block_llm.models.base.special_tokens import add_tokens
from the_block_llm.pipelines.behavioral_eval.runner import likelihood
from the_block_llm.pipelines.behavioral_eval.runner.likelihood import (
    measure_general_text,
    measure_held_out,
    measure_tasks,
)
from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem
from the_block_llm.pipelines.behavioral_eval.tasks.general_ability import (
    general_questions,
    general_texts,
)
from the_block_llm.retrieval.passages import PassageIndex

PLAIN = ("base", "tuned")
ITEM = ChoiceItem("t", "t/1", "c", "one two", (" three", " nine hundred"), 0)


def test_held_out_rows_are_scored_in_both_arms(evaluated_model, held_out, tmp_path):
    rows = measure_held_out(evaluated_model, *held_out, PLAIN, tmp_path)
    assert Counter(row["arm"] for row in rows) == {"base": 12, "tuned": 12}
    by_arm = {arm: [r for r in rows if r["arm"] == arm] for arm in ("base", "tuned")}
    for base, tuned in zip(by_arm["base"], by_arm["tuned"], strict=True):
        assert base["item_id"] == tuned["item_id"]
        assert base["weight"] == tuned["weight"] > 0
        assert base["value"] != tuned["value"]
        assert base["key"] != tuned["key"]
    pa.Table.from_pylist(rows, schemas.ITEM_SCORES)


def test_the_base_arm_is_the_model_without_its_adapter(evaluated_model, held_out, tmp_path):
    rows = measure_held_out(evaluated_model, *held_out, PLAIN, tmp_path / "a")
    base = [row["value"] for row in rows if row["arm"] == "base"]
    untouched = replace(evaluated_model, model=with_noise_adapter(tiny_llama().eval(), scale=0))
    rows = measure_held_out(untouched, *held_out, PLAIN, tmp_path / "b")
    assert base == pytest.approx([row["value"] for row in rows if row["arm"] == "tuned"])


def test_added_tokens_are_dropped_for_arms_that_do_not_know_them(
    evaluated_model, held_out, tmp_path
):
    rows, sources = held_out
    plain = measure_held_out(evaluated_model, rows, sources, PLAIN, tmp_path / "plain")
    marked = []
    for number, row in rows:
        ids = row["input_ids"]
        marked.append(
            (
                number,
                {
                    **row,
                    "input_ids": [ids[0], 260, *ids[1:4], 261, *ids[4:]],
                    "labels_mask": [True, False, *[True] * len(ids)],
                    "segment_lengths": [len(ids) + 2],
                },
            )
        )
    # The same holds for an adapter that was trained without added tokens.
    without_added_tokens = replace(
        evaluated_model, added_token_ids=frozenset(ADDED_TOKENS.values())
    )
    scores = measure_held_out(
        without_added_tokens, marked, sources, ["tuned"], tmp_path / "earlier"
    )
    tuned = [row["value"] for row in plain if row["arm"] == "tuned"]
    assert [row["value"] for row in scores] == pytest.approx(tuned)
    tokenizer = byte_tokenizer()
    add_tokens(tokenizer, ADDED_TOKENS)
    marked_model = replace(
        evaluated_model,
        model=with_added_tokens(evaluated_model.model),
        tuned_tokenizer=tokenizer,
        added_token_ids=frozenset(ADDED_TOKENS.values()),
    )
    scores = measure_held_out(marked_model, marked, sources, PLAIN, tmp_path / "marked")
    for expected, actual in zip(plain, scores, strict=True):
        assert expected["arm"] == actual["arm"]
        # Special tokens have no bytes; the text between them is scored.
        assert expected["weight"] == actual["weight"]
        if actual["arm"] == "base":
            assert actual["value"] == pytest.approx(expected["value"])
        else:
            assert 0 < actual["value"] < float("inf")
            assert actual["value"] != expected["value"]


def test_cached_rows_are_not_scored_again(evaluated_model, held_out, tmp_path, monkeypatch):
    rows, sources = held_out
    first = measure_held_out(evaluated_model, rows[:5], sources, PLAIN, tmp_path)
    measured = []
    real = likelihood.measure_rows

    def recording_measure_rows(model, tokenizer, batch):
        measured.extend(number for number, _ in batch)
        return real(model, tokenizer, batch)

    monkeypatch.setattr(likelihood, "measure_rows", recording_measure_rows)
    resumed = measure_held_out(evaluated_model, rows, sources, PLAIN, tmp_path)
    assert Counter(measured) == dict.fromkeys(range(5, 12), 2)
    assert [row for row in resumed if row in first] == first
    fresh = measure_held_out(evaluated_model, rows, sources, PLAIN, tmp_path / "fresh")
    assert [row["value"] for row in resumed] == pytest.approx([row["value"] for row in fresh])


def test_tasks_run_with_retrieval_only_if_the_budget_includes_it(evaluated_model, params, tmp_path):
    budget = params.budgets["cpu"]
    arms = ("base", "base_retrieval", "tuned")
    rows = measure_tasks(evaluated_model, [ITEM], arms, budget, PassageIndex([]), tmp_path)
    assert [row["arm"] for row in rows] == list(arms)
    small = budget.model_copy(update={"tasks_with_retrieval": False})
    rows = measure_tasks(evaluated_model, [ITEM], arms, small, PassageIndex([]), tmp_path)
    assert [row["arm"] for row in rows] == ["base", "tuned"]
    pa.Table.from_pylist(rows, schemas.ITEM_SCORES)


def test_general_text_is_scored_in_both_arms(evaluated_model, params, tmp_path):
    budget = params.budgets["cpu"]
    rows = measure_general_text(evaluated_model, general_texts(2), PLAIN, budget, tmp_path)
    assert [row["arm"] for row in rows] == ["base", "base", "tuned", "tuned"]
    assert rows == measure_general_text(evaluated_model, general_texts(2), PLAIN, budget, tmp_path)


def test_an_interrupted_run_resumes_with_the_missing_items(
    evaluated_model, params, tmp_path, monkeypatch
):
    budget = params.budgets["cpu"]
    items = general_questions(6)
    uninterrupted = measure_tasks(
        evaluated_model, items, PLAIN, budget, PassageIndex([]), tmp_path / "uninterrupted"
    )
    uninterrupted += measure_general_text(
        evaluated_model, general_texts(4), PLAIN, budget, tmp_path / "uninterrupted"
    )
    real, measured = likelihood.score_continuations, []

    def interrupted_scoring(model, texts, *, cache_gib, on_scored):
        def store(index, nats):
            if len(measured) == 5:
                raise KeyboardInterrupt
            measured.append(index)
            on_scored(index, nats)

        real(model, texts, cache_gib=cache_gib, on_scored=store)

    folder = tmp_path / "interrupted"
    monkeypatch.setattr(likelihood, "score_continuations", interrupted_scoring)
    with pytest.raises(KeyboardInterrupt):
        measure_tasks(evaluated_model, items, PLAIN, budget, PassageIndex([]), folder)
    rescored = []

    def recording_scoring(model, texts, **options):
        rescored.extend(texts)
        real(model, texts, **options)

    monkeypatch.setattr(likelihood, "score_continuations", recording_scoring)
    resumed = measure_tasks(evaluated_model, items, PLAIN, budget, PassageIndex([]), folder)
    resumed += measure_general_text(evaluated_model, general_texts(4), PLAIN, budget, folder)
    assert len(rescored) == 2 * 6 - 5 + 2 * 4
    assert [row["key"] for row in resumed] == [row["key"] for row in uninterrupted]
    assert [row["value"] for row in resumed] == pytest.approx(
        [row["value"] for row in uninterrupted]
    )
