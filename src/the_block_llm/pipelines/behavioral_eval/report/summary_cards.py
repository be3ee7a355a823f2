"""Summary cards: the main findings of the report, and the next step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# Recommendation by verdict, shown below the verdict.
_NEXT_STEPS: Final = {
    "better": (
        "Use the tuned model, unless base + retrieval performs as well: retrieval is cheaper to "
        "keep up to date. Retrain after the repository has changed."
    ),
    "worse": (
        "Use the base model. Try a lower learning rate or fewer epochs, and check the validation "
        "loss: if it rises, the model is overfitting."
    ),
    "no difference shown": (
        "Use the base model for now. Train on more rows, or for longer while the validation loss "
        "still decreases, and evaluate more items if the repository has them."
    ),
    "too little data": (
        "Set an earlier cut-off (sequence_build.cutoff) to hold out more commits, or wait until "
        "the repository has more history."
    ),
}


@dataclass(frozen=True)
class SummaryCard:
    """One finding, with its figure and its evidence."""

    title: str
    figure: str
    note: str
    kind: str = "none"
    """``better``, ``worse`` or ``none``; determines the color of the card."""


def next_step(report: Mapping[str, Any]) -> str:
    """Return the recommendation for the verdict."""
    return _NEXT_STEPS[report["verdict"]["outcome"]]


def summary_cards(report: Mapping[str, Any]) -> list[SummaryCard]:
    """Return a card for each finding that the report has data for."""
    candidates = [
        _held_out_card(report["measures"]),
        _tasks_card(report["tasks"], report["measures"]),
        _retrieval_card(report["also_compared"]),
        _ability_card(report["measures"]),
        _citations_card(report["categories"]),
    ]
    return [card for card in candidates if card is not None]


def _held_out_card(measures: Sequence[Mapping[str, Any]]) -> SummaryCard | None:
    measure = next((m for m in measures if m["name"] == "held_out" and m["base"]), None)
    if measure is None:
        return None
    saved, low, high = (
        -100 * measure[name] / measure["base"] for name in ("difference", "high", "low")
    )
    return SummaryCard(
        "Held-out text",
        f"{abs(saved):.1f} % {'fewer' if saved >= 0 else 'more'} bits",
        f"{measure['base']:.3f} → {measure['tuned']:.3f} bits per byte over "
        f"{measure['n_clusters']} commits and files; 95 %: {low:.1f} to {high:.1f} % fewer",
        _card_kind(measure["outcome"]),
    )


def _tasks_card(
    tasks: Sequence[Mapping[str, Any]], measures: Sequence[Mapping[str, Any]]
) -> SummaryCard | None:
    n_items = sum(task["n_items"] for task in tasks)
    if not n_items:
        return None

    def accuracy(arm: str) -> float:
        return sum(task["right"].get(arm, 0.0) * task["n_items"] for task in tasks) / n_items

    names = {task["task"] for task in tasks}
    outcomes = [m["outcome"] for m in measures if m["name"] in names]
    better, worse = outcomes.count("better"), outcomes.count("worse")
    guessing = sum(task["guessing"] * task["n_items"] for task in tasks) / n_items
    return SummaryCard(
        "Multiple-choice tasks",
        f"{_percent(accuracy('base'))} → {_percent(accuracy('tuned'))} correct",
        f"{n_items} items, {_percent(guessing)} by guessing; of {len(names)} tasks, {better} "
        f"better and {worse} worse",
        "worse" if worse else "better" if better else "none",
    )


def _retrieval_card(pairs: Sequence[Mapping[str, Any]]) -> SummaryCard | None:
    pair = next(
        (p for p in pairs if (p["first"], p["second"]) == ("base_retrieval", "tuned")), None
    )
    measures = [m for m in pair["measures"] if m["outcome"] != "too little data"] if pair else []
    if not measures:
        return None
    better = [m["title"] for m in measures if m["outcome"] == "better"]
    worse = [m["title"] for m in measures if m["outcome"] == "worse"]
    if better and not worse:
        figure, kind = "Tuning is better", "better"
    elif worse and not better:
        figure, kind = "Retrieval is better", "worse"
    else:
        figure, kind = ("Mixed" if better else "No difference shown"), "none"
    notes = [f"better: {', '.join(better)}"] if better else []
    notes += [f"worse: {', '.join(worse)}"] if worse else []
    return SummaryCard(
        "Tuned against base + retrieval",
        figure,
        "; ".join(notes) or f"measured: {', '.join(m['title'].lower() for m in measures)}",
        kind,
    )


def _ability_card(measures: Sequence[Mapping[str, Any]]) -> SummaryCard | None:
    general = [m for m in measures if m["weight"] == "ability"]
    if not general:
        return None
    lost = [m["title"] for m in general if m["outcome"] == "worse"]
    figures = ", ".join(f"{m['title'].lower()} {m['base']:.2f} → {m['tuned']:.2f}" for m in general)
    return SummaryCard(
        "General ability",
        f"Worse: {', '.join(lost)}" if lost else "No loss shown",
        f"{figures}; a small set, which detects large losses only",
        "worse" if lost else "none",
    )


def _citations_card(categories: Sequence[Mapping[str, Any]]) -> SummaryCard | None:
    overall = {row["arm"]: row for row in categories if row["category"] == "overall"}
    if not all(arm in overall for arm in ("base", "tuned")) or not (
        overall["base"]["citations"] or overall["tuned"]["citations"]
    ):
        return None

    def existing(arm: str) -> str:
        return f"{overall[arm]['citations_that_exist']} of {overall[arm]['citations']}"

    return SummaryCard(
        "Cited paths, commits and symbols",
        f"{existing('tuned')} exist",
        f"base: {existing('base')}; citations that do not exist are marked in the answers",
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _card_kind(outcome: str) -> str:
    return outcome if outcome in ("better", "worse") else "none"
