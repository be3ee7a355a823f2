"""The report as one HTML file that asks the network for nothing.

Answers of a model and names in a repository are hostile input: everything is escaped, and a
policy in the page forbids scripts even so.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from the_block_llm.pipelines.behavioral_eval.forest import forest_plot

_TEMPLATE: Final = "page.html.jinja"
_ARM_TITLES: Final = {
    "base": "Base",
    "base_retrieval": "Base + retrieval",
    "tuned": "Tuned",
    "tuned_retrieval": "Tuned + retrieval",
}


def render(report: Mapping[str, Any]) -> str:
    """Write the page of a report made by :func:`~.report.build_report`."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.0f} %"
    environment.filters["chance"] = lambda p: "<0.001" if p < 0.001 else f"{p:.3f}"
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    source = files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        arm_titles=_ARM_TITLES,
        arms=list(dict.fromkeys(row["arm"] for row in report["categories"])),
        categories=list(dict.fromkeys(row["category"] for row in report["categories"])),
        cells={(row["category"], row["arm"]): row for row in report["categories"]},
        # Our own markup, in which every text from outside is escaped.
        forest=Markup(forest_plot(report["measures"])),  # noqa: S704
    )
