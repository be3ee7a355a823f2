import pytest

from the_block_llm.pipelines.behavioral_eval.analysis.statistics import PairedDifference
from the_block_llm.pipelines.behavioral_eval.analysis.verdict import (
    Comparison,
    judge_comparisons,
    reach_verdict,
)


def comparison(name, weight, change, half_width, p_value, clusters=20):
    return Comparison(
        name=name,
        title=name,
        unit="bits per byte",
        higher_is_better=False,
        weight=weight,
        difference=PairedDifference(
            n_items=2 * clusters,
            n_clusters=clusters,
            first=1.0,
            second=1.0 + change,
            difference=change,
            low=change - half_width,
            high=change + half_width,
            p_value=p_value,
            detectable=0.03,
        ),
    )


GOOD = ("primary", -0.1, 0.02, 0.001)
FLAT = ("primary", -0.01, 0.02, 0.4)
BAD = ("primary", 0.1, 0.02, 0.001)


@pytest.mark.parametrize(
    ("primary", "other", "outcome"),
    [
        (GOOD, None, "better"),
        (FLAT, None, "no difference shown"),
        (BAD, None, "worse"),
        ((*GOOD, 7), None, "too little data"),
        ((*GOOD, 8), None, "better"),
        (("primary", -0.1, 0.2, 0.001), None, "no difference shown"),
        (("primary", -0.1, 0.02, 0.051), None, "no difference shown"),
        (GOOD, ("knowledge", 0.2, 0.05, 0.001), "no difference shown"),
        (GOOD, ("knowledge", 0.2, 0.05, 0.001, 5), "better"),
        (FLAT, ("knowledge", 0.2, 0.05, 0.001), "worse"),
        (FLAT, ("knowledge", -0.2, 0.05, 0.001), "no difference shown"),
        (GOOD, ("part", 0.2, 0.05, 0.001), "better"),
        (GOOD, ("ability", 0.2, 0.05, 0.001), "better"),
        # With two metrics, 0.03 is not significant after correction.
        (("primary", -0.1, 0.02, 0.03), ("knowledge", 0.0, 0.05, 0.9), "no difference shown"),
        (("primary", -0.1, 0.02, 0.03), ("part", 0.0, 0.05, 0.9), "better"),
    ],
)
def test_rules(primary, other, outcome):
    comparisons = [comparison("held_out", *primary)]
    if other is not None:
        comparisons.append(comparison("other", *other))
    assert reach_verdict(judge_comparisons(comparisons)).outcome == outcome


def test_the_sentence_reports_the_gain_and_lost_ability():
    verdict = reach_verdict(
        judge_comparisons(
            [comparison("held_out", *GOOD), comparison("general", "ability", 0.2, 0.05, 0.01)]
        )
    )
    assert "10.0 % fewer bits" in verdict.sentence
    assert "lost some general ability" in verdict.sentence
    assert len(verdict.reasons) == 2


def test_no_difference_reports_the_detectable_difference():
    verdict = reach_verdict(judge_comparisons([comparison("held_out", *FLAT)]))
    assert "A change of 0.03 bits per byte" in verdict.sentence
    assert "Not worth it" in verdict.sentence
