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


def test_what_showed_a_difference_sets_the_scale() -> None:
    drawing = forest_plot(
        [
            measure("held out", -0.02, 0.005, "better"),
            measure("three items", 1.0, 2.0, "too little data"),
        ]
    )
    assert ElementTree.fromstring(drawing).tag == "svg"
    # 1.5 times the far end of the interval that showed something: 2.5 %.
    assert "+4 %" in drawing
    assert "-4 %" in drawing
    zero, held_out, beyond = (
        float(x)
        for x in (
            re.findall(r'class="zero" x1="([\d.]+)"', drawing)
            + re.findall(r'<circle cx="([\d.]+)"', drawing)
        )
    )
    assert held_out > zero + 50, "fewer bits is better, and better is right of the line"
    assert beyond < zero
    assert drawing.count("◂") == 1
    assert drawing.count("▸") == 1


def test_without_any_difference_there_is_still_a_scale() -> None:
    assert "+2 %" in forest_plot([measure("nothing", 0.0, 0.0, "no difference shown")])
    assert forest_plot([]).startswith("<svg")
