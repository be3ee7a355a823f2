"""The report in a few cards, for whoever has two minutes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# By verdict, what to do next; the page shows it right below the verdict.
_NEXT: Final = {
    "better": (
        "Use it, unless base + retrieval does as well below: looking things up is cheaper to keep "
        "up to date. Train again when the repository has moved on."
    ),
    "worse": (
        "Use the base model. Try a lower learning rate or fewer epochs, and look at the validation "
        "loss: where it rises, training went on for too long."
    ),
    "no difference shown": (
        "Use the base model for now. Train on more rows or for longer while the validation loss "
        "still falls, and ask more items where the repository has them."
    ),
    "too little data": (
        "Set an earlier cut-off (sequence_build.cutoff), so that more commits are held back, or "
        "wait until the repository has more history."
    ),
}


@dataclass(frozen=True)
class Card:
    """One finding: a few words, a figure, and what it rests on."""

    title: str
    figure: str
    note: str
    kind: str = "none"
    """``better``, ``worse`` or ``none``; the page colours by it."""


def next_step(report: Mapping[str, Any]) -> str:
    """What the verdict suggests."""
    return _NEXT[report["verdict"]["outcome"]]


def cards(report: Mapping[str, Any]) -> list[Card]:
    """The findings that a report has material for."""
    found = [
        _held_out(report["measures"]),
        _tasks(report["tasks"], report["measures"]),
        _retrieval(report["also_compared"]),
        _ability(report["measures"]),
        _citations(report["categories"]),
    ]
    return [card for card in found if card is not None]


def _held_out(measures: Sequence[Mapping[str, Any]]) -> Card | None:
    measure = next((m for m in measures if m["name"] == "held_out" and m["base"]), None)
    if measure is None:
        return None
    saved, low, high = (
        -100 * measure[name] / measure["base"] for name in ("difference", "high", "low")
    )
    return Card(
        "Text that neither has seen",
        f"{abs(saved):.1f} % {'fewer' if saved >= 0 else 'more'} bits",
        f"{measure['base']:.3f} → {measure['tuned']:.3f} bits per byte over "
        f"{measure['n_clusters']} commits and files; 95 %: {low:.1f} to {high:.1f} % fewer",
        _kind(measure["outcome"]),
    )


def _tasks(
    tasks: Sequence[Mapping[str, Any]], measures: Sequence[Mapping[str, Any]]
) -> Card | None:
    n_items = sum(task["n_items"] for task in tasks)
    if not n_items:
        return None

    def share(of: str) -> float:
        return sum(task["right"].get(of, 0.0) * task["n_items"] for task in tasks) / n_items

    names = {task["task"] for task in tasks}
    outcomes = [m["outcome"] for m in measures if m["name"] in names]
    better, worse = outcomes.count("better"), outcomes.count("worse")
    guessing = sum(task["guessing"] * task["n_items"] for task in tasks) / n_items
    return Card(
        "Questions with one right answer",
        f"{_percent(share('base'))} → {_percent(share('tuned'))} right",
        f"{n_items} items, {_percent(guessing)} by guessing; of {len(names)} tasks {better} shown "
        f"better, {worse} worse",
        "worse" if worse else "better" if better else "none",
    )


def _retrieval(pairs: Sequence[Mapping[str, Any]]) -> Card | None:
    pair = next(
        (p for p in pairs if (p["first"], p["second"]) == ("base_retrieval", "tuned")), None
    )
    told = [m for m in pair["measures"] if m["outcome"] != "too little data"] if pair else []
    if not told:
        return None
    better = [m["title"] for m in told if m["outcome"] == "better"]
    worse = [m["title"] for m in told if m["outcome"] == "worse"]
    if better and not worse:
        figure, kind = "Tuning does more", "better"
    elif worse and not better:
        figure, kind = "Looking up does more", "worse"
    else:
        figure, kind = ("Each has its uses" if better else "No difference shown"), "none"
    says = [f"better: {', '.join(better)}"] if better else []
    says += [f"worse: {', '.join(worse)}"] if worse else []
    return Card(
        "Tuned, instead of base + retrieval",
        figure,
        "; ".join(says) or f"measured: {', '.join(m['title'].lower() for m in told)}",
        kind,
    )


def _ability(measures: Sequence[Mapping[str, Any]]) -> Card | None:
    general = [m for m in measures if m["weight"] == "ability"]
    if not general:
        return None
    lost = [m["title"] for m in general if m["outcome"] == "worse"]
    seen = ", ".join(f"{m['title'].lower()} {m['base']:.2f} → {m['tuned']:.2f}" for m in general)
    return Card(
        "What has nothing to do with the project",
        f"Worse: {', '.join(lost)}" if lost else "No loss shown",
        f"{seen}; a small set, which finds large losses",
        "worse" if lost else "none",
    )


def _citations(categories: Sequence[Mapping[str, Any]]) -> Card | None:
    overall = {row["arm"]: row for row in categories if row["category"] == "overall"}
    if not all(arm in overall for arm in ("base", "tuned")) or not (
        overall["base"]["citations"] or overall["tuned"]["citations"]
    ):
        return None

    def counted(arm: str) -> str:
        return f"{overall[arm]['citations_that_exist']} of {overall[arm]['citations']}"

    return Card(
        "Paths, commits and names that it cites",
        f"{counted('tuned')} exist",
        f"the base: {counted('base')}; what does not exist is marked below",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _kind(outcome: str) -> str:
    return outcome if outcome in ("better", "worse") else "none"
