"""Renders the report as a self-contained HTML file without network requests.

Model answers and names from a repository are untrusted input: everything is escaped, and the
page's Content-Security-Policy forbids scripts in addition.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from the_block_llm.pipelines.behavioral_eval.report.forest_plot import forest_plot
from the_block_llm.pipelines.behavioral_eval.report.summary_cards import next_step, summary_cards

_TEMPLATE: Final = "html_report.html.jinja"
_ARM_TITLES: Final = {
    "base": "Base",
    "base_retrieval": "Base + retrieval",
    "tuned": "Tuned",
    "tuned_retrieval": "Tuned + retrieval",
}
# Files of the same run, in the same folder as the page.
_RELATED_FILES: Final = {
    "behavioral_report.json": "this report as JSON, with every item",
    "training_metrics.json": "training metrics",
    "training_loss.png": "training loss",
    "sequence_report.json": "training rows",
    "ingest_report.json": "ingested and dropped files",
}


def render(report: Mapping[str, Any]) -> str:
    """Render a report of :func:`~.report.build_report` as HTML.

    Earlier adapters are shown if the report has ``trend`` and ``material``.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda fraction: f"{100 * fraction:.0f} %"
    environment.filters["p_value"] = lambda p: "<0.001" if p < 0.001 else f"{p:.3f}"
    environment.filters["mark_citations"] = mark_citations
    environment.filters["spaced"] = lambda name: str(name).replace("_", " ")
    source = files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        arm_titles=_arm_titles(report),
        arms=_arms(report),
        task_arms=[a for a in _arms(report) if any(a in t["right"] for t in report["tasks"])],
        cards=summary_cards(report),
        next_step=next_step(report),
        related_files=_RELATED_FILES,
        trend=trend_rows(report),
        trend_plot=Markup(forest_plot(trend_rows(report, same_text=True))),  # noqa: S704
        categories=list(dict.fromkeys(row["category"] for row in report["categories"])),
        category_scores={(row["category"], row["arm"]): row for row in report["categories"]},
        # The SVG is generated here, and every external text in it is escaped.
        difference_plot=Markup(forest_plot(report["measures"])),  # noqa: S704
    )


def mark_citations(answer: Mapping[str, Any]) -> Markup:
    """Return the escaped answer, its citations marked by whether they exist."""
    exists = {cited["text"]: cited["exists"] for cited in answer["citations"] if cited["text"]}
    text = str(answer["completion"])
    if not exists:
        return escape(text)
    # Longest first, since a path may be a prefix of another one.
    cited_texts = sorted(exists, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, cited_texts))})", text)
    return Markup().join(
        Markup('<mark class="{}">{}</mark>').format("ok" if exists[part] else "warn", part)
        if part in exists
        else escape(part)
        for part in parts
    )


def trend_rows(report: Mapping[str, Any], *, same_text: bool = False) -> list[dict[str, Any]]:
    """Return the held-out metric of each evaluated adapter, oldest training first.

    Args:
        report: As for :func:`render`.
        same_text: Only adapters that were measured on the held-out text of this report.
    """
    rows = []
    for entry in report.get("trend", []):
        measure = entry["measures"].get("held_out")
        is_same = entry["material"] == report["material"]
        if measure and (is_same or not same_text):
            rows.append({**measure, **entry, "title": entry["adapter"], "same_text": is_same})
    return rows


def _arms(report: Mapping[str, Any]) -> list[str]:
    """Return the arms of probes and tasks: the four arms, then further models."""
    probe_arms = [row["arm"] for row in report["categories"]]
    task_arms = [arm for task in report["tasks"] for arm in task["right"]]
    return list(dict.fromkeys([*probe_arms, *task_arms]))


def _arm_titles(report: Mapping[str, Any]) -> dict[str, str]:
    return {arm: _ARM_TITLES.get(arm, arm) for arm in (*_ARM_TITLES, *_arms(report))}
