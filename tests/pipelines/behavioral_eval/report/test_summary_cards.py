import pytest

from the_block_llm.pipelines.behavioral_eval.report.summary_cards import next_step, summary_cards


def measure(name, outcome, weight="knowledge", base=0.5, tuned=0.6, spread=0.05):
    difference = tuned - base
    return {
        "name": name, "title": name.title(), "weight": weight, "base": base, "tuned": tuned,
        "difference": difference, "low": difference - spread, "high": difference + spread,
        "outcome": outcome, "n_clusters": 20,
    }  # fmt: skip


def task(name, n_items, base, tuned):
    return {
        "task": name,
        "n_items": n_items,
        "guessing": 0.25,
        "right": {"base": base, "tuned": tuned},
    }


def category(arm, existing, cited):
    return {"category": "overall", "arm": arm, "citations": cited, "citations_that_exist": existing}


def report(**changed):
    return {
        "verdict": {"outcome": "better"}, "measures": [], "tasks": [], "also_compared": [],
        "categories": [], **changed,
    }  # fmt: skip


def test_without_data_there_is_no_card():
    assert summary_cards(report()) == []


@pytest.mark.parametrize(
    ("tuned", "outcome", "figure", "kind"),
    [
        (1.02, "better", "15.0 % fewer bits", "better"),
        (1.26, "worse", "5.0 % more bits", "worse"),
        (1.188, "no difference shown", "1.0 % fewer bits", "none"),
    ],
)
def test_held_out_card_is_in_percent(tuned, outcome, figure, kind):
    [card] = summary_cards(
        report(measures=[measure("held_out", outcome, "primary", 1.2, tuned, 0.012)])
    )
    assert (card.figure, card.kind) == (figure, kind)
    assert "over 20 commits and files" in card.note


def test_the_interval_has_the_sign_of_the_difference():
    held_out = measure("held_out", "better", "primary", 1.0, 0.9, 0.02)
    [card] = summary_cards(report(measures=[held_out]))
    assert "95 %: 8.0 to 12.0 % fewer" in card.note


def test_tasks_are_weighted_by_items_and_a_worse_one_is_reported():
    tasks = [task("a", 30, 0.2, 0.4), task("b", 10, 0.6, 0.2)]
    [card] = summary_cards(
        report(tasks=tasks, measures=[measure("a", "better"), measure("b", "worse")])
    )
    assert card.figure == "30 % → 35 % correct"
    assert "of 2 tasks, 1 better and 1 worse" in card.note
    assert card.kind == "worse"


@pytest.mark.parametrize(
    ("outcomes", "figure"),
    [
        (["better", "no difference shown"], "Tuning is better"),
        (["worse", "too little data"], "Retrieval is better"),
        (["better", "worse"], "Mixed"),
        (["no difference shown"], "No difference shown"),
    ],
)
def test_retrieval_card(outcomes, figure):
    pair = {
        "first": "base_retrieval", "second": "tuned",
        "measures": [measure(f"m{n}", outcome) for n, outcome in enumerate(outcomes)],
    }  # fmt: skip
    [card] = summary_cards(report(also_compared=[pair]))
    assert card.figure == figure


def test_lost_ability_is_reported():
    lost = [measure("text", "worse", "ability"), measure("questions", "better", "ability")]
    [card] = summary_cards(report(measures=lost))
    assert (card.figure, card.kind) == ("Worse: Text", "worse")


def test_citations_of_both_arms():
    [card] = summary_cards(report(categories=[category("base", 1, 4), category("tuned", 2, 3)]))
    assert card.figure == "2 of 3 exist"
    assert "base: 1 of 4" in card.note
    assert summary_cards(report(categories=[category("base", 0, 0), category("tuned", 0, 0)])) == []


@pytest.mark.parametrize("outcome", ["better", "worse", "no difference shown", "too little data"])
def test_every_verdict_has_a_next_step(outcome):
    assert next_step(report(verdict={"outcome": outcome})).endswith(".")
