import re
from xml.etree import ElementTree

from the_block_llm.pipelines.behavioral_eval.report.forest_plot import forest_plot


def measure(title: str, difference: float, spread: float, outcome: str) -> dict[str, object]:
    return {
        "title": title,
        "base": 1.0,
        "difference": difference,
        "low": difference - spread,
        "high": difference + spread,
        "higher_is_better": False,
        "outcome": outcome,
    }


def test_significant_metrics_determine_the_axis() -> None:
    svg = forest_plot(
        [
            measure("held out", -0.02, 0.005, "better"),
            measure("three items", 1.0, 2.0, "too little data"),
        ]
    )
    assert ElementTree.fromstring(svg).tag == "svg"
    # 1.5 times the far end of the significant interval, 2.5 %.
    assert "+4 %" in svg
    assert "-4 %" in svg
    zero, held_out, clipped = (
        float(x)
        for x in (
            re.findall(r'class="zero" x1="([\d.]+)"', svg)
            + re.findall(r'<circle cx="([\d.]+)"', svg)
        )
    )
    assert held_out > zero + 50, "fewer bits are an improvement, which is right of the zero line"
    assert clipped < zero
    assert svg.count("◂") == 1
    assert svg.count("▸") == 1


def test_the_axis_has_a_minimum_range() -> None:
    assert "+2 %" in forest_plot([measure("nothing", 0.0, 0.0, "no difference shown")])
    assert forest_plot([]).startswith("<svg")
