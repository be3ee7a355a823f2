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
from the_block_llm.pipelines.behavioral_eval.tasks.choice_scoring import choice_score
from the_block_llm.pipelines.behavioral_eval.tasks.general_ability import (
    general_questions,
    general_texts,
)
from the_block_llm.retrieval.passages import PassageIndex

PLAIN = ("base", "tuned")
ITEM = ChoiceItem("t", "t/1", "c", "one two", (" three", " nine hundred"), 0)


def test_held_out_rows_are_measured_in_both_arms(subject, held_out, tmp_path):
    rows = measure_held_out(subject, *held_out, PLAIN, tmp_path)
    assert Counter(row["arm"] for row in rows) == {"base": 12, "tuned": 12}
    by_arm = {arm: [r for r in rows if r["arm"] == arm] for arm in ("base", "tuned")}
    for base, tuned in zip(by_arm["base"], by_arm["tuned"], strict=True):
        assert base["item_id"] == tuned["item_id"]
        assert base["weight"] == tuned["weight"] > 0
        assert base["value"] != tuned["value"]
        assert base["key"] != tuned["key"]
    pa.Table.from_pylist(rows, schemas.ITEM_SCORES)


def test_the_base_arm_is_the_model_without_its_adapter(subject, held_out, tmp_path):
    rows = measure_held_out(subject, *held_out, PLAIN, tmp_path / "a")
    base = [row["value"] for row in rows if row["arm"] == "base"]
    untouched = replace(subject, model=with_noise_adapter(tiny_llama().eval(), scale=0))
    rows = measure_held_out(untouched, *held_out, PLAIN, tmp_path / "b")
    assert base == pytest.approx([row["value"] for row in rows if row["arm"] == "tuned"])


def test_tokens_that_the_base_lacks_are_kept_from_it(subject, held_out, tmp_path):
    rows, sources = held_out
    plain = measure_held_out(subject, rows, sources, PLAIN, tmp_path / "plain")
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
    # An adapter that was trained without them is shown the rows without them, too.
    earlier = replace(subject, added_ids=frozenset(ADDED_TOKENS.values()))
    found = measure_held_out(earlier, marked, sources, ["tuned"], tmp_path / "earlier")
    tuned = [row["value"] for row in plain if row["arm"] == "tuned"]
    assert [row["value"] for row in found] == pytest.approx(tuned)
    tokenizer = byte_tokenizer()
    add_tokens(tokenizer, ADDED_TOKENS)
    told = replace(
        subject,
        model=with_added_tokens(subject.model),
        tuned_tokenizer=tokenizer,
        added_ids=frozenset(ADDED_TOKENS.values()),
    )
    found = measure_held_out(told, marked, sources, PLAIN, tmp_path / "marked")
    for before, now in zip(plain, found, strict=True):
        assert before["arm"] == now["arm"]
        # Marks have no bytes; what they open and close is measured all the same.
        assert before["weight"] == now["weight"]
        if now["arm"] == "base":
            assert now["value"] == pytest.approx(before["value"])
        else:
            assert 0 < now["value"] < float("inf")
            assert now["value"] != before["value"]


def test_measured_rows_are_not_measured_again(subject, held_out, tmp_path, monkeypatch):
    rows, sources = held_out
    first = measure_held_out(subject, rows[:5], sources, PLAIN, tmp_path)
    measured = []
    real = likelihood.measure_rows

    def counts(model, tokenizer, batch):
        measured.extend(number for number, _ in batch)
        return real(model, tokenizer, batch)

    monkeypatch.setattr(likelihood, "measure_rows", counts)
    everything = measure_held_out(subject, rows, sources, PLAIN, tmp_path)
    assert Counter(measured) == dict.fromkeys(range(5, 12), 2)
    assert [row for row in everything if row in first] == first
    alone = measure_held_out(subject, rows, sources, PLAIN, tmp_path / "alone")
    assert [row["value"] for row in everything] == pytest.approx([row["value"] for row in alone])


@pytest.mark.parametrize(
    ("nats", "chosen", "is_right"),
    [
        ([6.0, 26.0], 0, True),
        # The longer one costs more in all; a byte decides.
        ([6.1, 13.3], 0, True),
        ([6.1, 13.0], 1, False),
    ],
)
def test_choices_are_compared_by_nats_a_byte(nats, chosen, is_right):
    score = choice_score(ITEM, nats)
    assert (score.chosen, score.is_right) == (chosen, is_right)


def test_tasks_with_retrieval_only_where_the_budget_says_so(subject, params, tmp_path):
    budget = params.budgets["cpu"]
    arms = ("base", "base_retrieval", "tuned")
    rows = measure_tasks(subject, [ITEM], arms, budget, PassageIndex([]), tmp_path)
    assert [row["arm"] for row in rows] == list(arms)
    small = budget.model_copy(update={"tasks_with_retrieval": False})
    rows = measure_tasks(subject, [ITEM], arms, small, PassageIndex([]), tmp_path)
    assert [row["arm"] for row in rows] == ["base", "tuned"]
    pa.Table.from_pylist(rows, schemas.ITEM_SCORES)


def test_general_ability_is_whole():
    assert len(general_texts(99)) == len(set(general_texts(99))) == 24
    questions = general_questions(99)
    assert len({item.item_id for item in questions}) == 24
    assert all(len(set(item.choices)) == 4 for item in questions)
    places = Counter(item.answer for item in questions)
    assert max(places.values()) < 12, "the right answer must not stand in one place"


def test_general_text_is_measured_in_both_arms(subject, params, tmp_path):
    budget = params.budgets["cpu"]
    rows = measure_general_text(subject, general_texts(2), PLAIN, budget, tmp_path)
    assert [row["arm"] for row in rows] == ["base", "base", "tuned", "tuned"]
    assert rows == measure_general_text(subject, general_texts(2), PLAIN, budget, tmp_path)


def test_an_interrupted_run_measures_only_what_is_missing(subject, params, tmp_path, monkeypatch):
    budget = params.budgets["cpu"]
    items = general_questions(6)
    whole = measure_tasks(subject, items, PLAIN, budget, PassageIndex([]), tmp_path / "whole")
    whole += measure_general_text(subject, general_texts(4), PLAIN, budget, tmp_path / "whole")
    real, measured = likelihood.score_continuations, []

    def dies_in_the_middle(model, texts, *, cache_gib, on_measured):
        def keep(place, nats):
            if len(measured) == 5:
                raise KeyboardInterrupt
            measured.append(place)
            on_measured(place, nats)

        real(model, texts, cache_gib=cache_gib, on_measured=keep)

    folder = tmp_path / "cut"
    monkeypatch.setattr(likelihood, "score_continuations", dies_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        measure_tasks(subject, items, PLAIN, budget, PassageIndex([]), folder)
    again = []

    def counts(model, texts, **options):
        again.extend(texts)
        real(model, texts, **options)

    monkeypatch.setattr(likelihood, "score_continuations", counts)
    resumed = measure_tasks(subject, items, PLAIN, budget, PassageIndex([]), folder)
    resumed += measure_general_text(subject, general_texts(4), PLAIN, budget, folder)
    assert len(again) == 2 * 6 - 5 + 2 * 4
    assert [row["key"] for row in resumed] == [row["key"] for row in whole]
    assert [row["value"] for row in resumed] == pytest.approx([row["value"] for row in whole])
