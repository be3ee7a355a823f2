"""The report as one HTML file that asks the network for nothing.

Answers of a model and names in a repository are hostile input: everything is escaped, and a
policy in the page forbids scripts even so.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from the_block_llm.pipelines.behavioral_eval.report.forest_plot import forest_plot
from the_block_llm.pipelines.behavioral_eval.report.summary_cards import cards, next_step

_TEMPLATE: Final = "page.html.jinja"
_ARM_TITLES: Final = {
    "base": "Base",
    "base_retrieval": "Base + retrieval",
    "tuned": "Tuned",
    "tuned_retrieval": "Tuned + retrieval",
}


# Beside the page, written by the same run.
_BESIDE: Final = {
    "behavioral_report.json": "all of this as data, with every item",
    "training_metrics.json": "the training",
    "training_loss.png": "its loss",
    "sequence_report.json": "the training rows",
    "ingest_report.json": "what was read and what left out",
}


def render(report: Mapping[str, Any]) -> str:
    """Write the page of a report made by :func:`~.report.build_report`.

    ``trend`` and ``material`` of the report, where they are there, show earlier adapters.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.0f} %"
    environment.filters["chance"] = lambda p: "<0.001" if p < 0.001 else f"{p:.3f}"
    environment.filters["marked"] = mark_citations
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    source = files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        arm_titles=_arm_titles(report),
        arms=_arms(report),
        task_arms=[a for a in _arms(report) if any(a in t["right"] for t in report["tasks"])],
        cards=cards(report),
        next_step=next_step(report),
        beside=_BESIDE,
        trend=trend_rows(report),
        trend_plot=Markup(forest_plot(trend_rows(report, same_text=True))),  # noqa: S704
        categories=list(dict.fromkeys(row["category"] for row in report["categories"])),
        cells={(row["category"], row["arm"]): row for row in report["categories"]},
        # Our own markup, in which every text from outside is escaped.
        forest=Markup(forest_plot(report["measures"])),  # noqa: S704
    )


def mark_citations(answer: Mapping[str, Any]) -> Markup:
    """The answer's text, what it cites marked by whether it exists; all of it escaped."""
    exists = {cited["text"]: cited["exists"] for cited in answer["citations"] if cited["text"]}
    text = str(answer["completion"])
    if not exists:
        return escape(text)
    # The longest first: a path may begin with another one.
    names = sorted(exists, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", text)
    return Markup().join(
        Markup('<mark class="{}">{}</mark>').format("yes" if exists[piece] else "warn", piece)
        if piece in exists
        else escape(piece)
        for piece in pieces
    )


def trend_rows(report: Mapping[str, Any], *, same_text: bool = False) -> list[dict[str, Any]]:
    """Held-out text adapter by adapter, oldest training first.

    Args:
        report: Of :func:`render`.
        same_text: Only those that were measured on the text that this report measured.
    """
    rows = []
    for entry in report.get("trend", []):
        measure = entry["measures"].get("held_out")
        is_same = entry["material"] == report["material"]
        if measure and (is_same or not same_text):
            rows.append({**measure, **entry, "title": entry["adapter"], "same_text": is_same})
    return rows


def _arms(report: Mapping[str, Any]) -> list[str]:
    """The four arms, then further models, which may have answered only a part."""
    answered = [row["arm"] for row in report["categories"]]
    chosen = [arm for task in report["tasks"] for arm in task["right"]]
    return list(dict.fromkeys([*answered, *chosen]))


def _arm_titles(report: Mapping[str, Any]) -> dict[str, str]:
    return {arm: _ARM_TITLES.get(arm, arm) for arm in (*_ARM_TITLES, *_arms(report))}
