"""Rules that turn comparisons into a verdict; the report prints the same rules.

``RULES`` is what the report prints, ``reach_verdict`` what is computed: change both together.

A metric shows a difference only if it is significant after correction for the number of
metrics, and if there are enough independent clusters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from the_block_llm.pipelines.behavioral_eval.analysis.statistics import (
    MIN_CLUSTERS,
    PairedDifference,
    holm,
)

Outcome = Literal["better", "worse", "no difference shown", "too little data"]
MetricRole = Literal["primary", "knowledge", "part", "ability"]

SIGNIFICANCE_LEVEL: Final = 0.05
RULES: Final = (
    (
        "Tuned and base are measured on the same items. The text was committed after the cut-off, "
        "so neither was trained on it."
    ),
    (
        f"A metric needs items from at least {MIN_CLUSTERS} different commits or files; with fewer "
        "the outcome is: too little data."
    ),
    (
        "A metric shows a difference if its 95 % interval excludes zero and its p-value, corrected "
        f"for the number of metrics (Holm), is below {SIGNIFICANCE_LEVEL}."
    ),
    (
        "Held-out text decides. Better: it improved and no other metric of knowledge got worse. "
        "Worse: it got worse, or another metric of knowledge did and it did not improve."
    ),
    (
        "Otherwise the outcome is: no difference shown. The evaluation can miss a difference "
        "smaller than the detectable one, which is given for each metric."
    ),
)


@dataclass(frozen=True)
class Comparison:
    """A metric compared between two arms."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    weight: MetricRole
    """``primary`` decides, ``knowledge`` can overrule it, ``part`` and ``ability`` are reported."""
    difference: PairedDifference


@dataclass(frozen=True)
class JudgedComparison:
    """A comparison with its corrected p-value and outcome."""

    comparison: Comparison
    p_corrected: float
    outcome: Outcome


@dataclass(frozen=True)
class Verdict:
    """Verdict on the tuned model, with the comparisons it rests on."""

    outcome: Outcome
    sentence: str
    reasons: tuple[str, ...]


def judge_comparisons(comparisons: Sequence[Comparison]) -> list[JudgedComparison]:
    """Decide the outcome of each comparison.

    Holm's correction covers the metrics that affect the verdict. The others are not corrected:
    they decide nothing, and a false alarm is preferable to a missed regression.
    """
    deciding = [
        c for c in comparisons if _has_enough_clusters(c) and c.weight in ("primary", "knowledge")
    ]
    corrected = dict(
        zip(
            [c.name for c in deciding],
            holm([c.difference.p_value for c in deciding]),
            strict=True,
        )
    )
    judged = []
    for comparison in comparisons:
        p_corrected = corrected.get(comparison.name, comparison.difference.p_value)
        judged.append(
            JudgedComparison(comparison, p_corrected, _judge_outcome(comparison, p_corrected))
        )
    return judged


def reach_verdict(judged: Sequence[JudgedComparison]) -> Verdict:
    """Apply the rules to judged comparisons."""
    primary = next((j for j in judged if j.comparison.weight == "primary"), None)
    if primary is None:
        return Verdict(
            outcome="too little data",
            sentence="There is no held-out text to evaluate on. Use an earlier cut-off.",
            reasons=(),
        )
    knowledge = [j for j in judged if j.comparison.weight == "knowledge"]
    better = [j for j in knowledge if j.outcome == "better"]
    worse = [j for j in knowledge if j.outcome == "worse"]
    forgotten = [j for j in judged if j.comparison.weight == "ability" and j.outcome == "worse"]
    outcome: Outcome = primary.outcome
    if outcome == "better" and worse:
        outcome = "no difference shown"
    elif outcome != "better" and worse:
        outcome = "worse"
    reasons = [_format_reason(primary)]
    reasons += [_format_reason(j) for j in (*better, *worse)]
    if forgotten:
        reasons.append(f"General ability lost: {'; '.join(map(_format_reason, forgotten))}")
    return Verdict(
        outcome=outcome,
        sentence=_format_sentence(outcome, primary, bool(worse), bool(forgotten)),
        reasons=tuple(reasons),
    )


def _has_enough_clusters(comparison: Comparison) -> bool:
    return comparison.difference.n_clusters >= MIN_CLUSTERS


def _judge_outcome(comparison: Comparison, p_corrected: float) -> Outcome:
    if not _has_enough_clusters(comparison):
        return "too little data"
    difference = comparison.difference
    if p_corrected >= SIGNIFICANCE_LEVEL or difference.low <= 0 <= difference.high:
        return "no difference shown"
    return "better" if (difference.difference > 0) == comparison.higher_is_better else "worse"


def _format_reason(judged: JudgedComparison) -> str:
    difference = judged.comparison.difference
    digits = 3 if judged.comparison.unit == "bits per byte" else 2
    return (
        f"{judged.comparison.title}: {difference.first:.{digits}f} → "
        f"{difference.second:.{digits}f} {judged.comparison.unit} ({judged.outcome}; "
        f"{difference.n_items} items from {difference.n_clusters} sources)"
    )


def _format_sentence(
    outcome: Outcome, primary: JudgedComparison, is_contradicted: bool, has_forgotten: bool
) -> str:
    difference = primary.comparison.difference
    change = 100 * difference.difference / difference.first if difference.first else 0.0
    if outcome == "better":
        ability = ", but it has lost some general ability" if has_forgotten else ""
        return (
            f"The tuned model knows this project better than the base: it needs {-change:.1f} % "
            f"fewer bits for text that neither has seen{ability}."
        )
    if outcome == "worse":
        return "The tuned model is worse than the base. Not worth it: use the base."
    if outcome == "too little data":
        return (
            f"Too little held-out text: {difference.n_clusters} commits or files, {MIN_CLUSTERS} "
            "needed. Use a repository with more history, or an earlier cut-off."
        )
    if is_contradicted:
        return (
            "Mixed: held-out text is predicted better, but another metric of knowledge got worse. "
            "Not worth it."
        )
    return (
        f"A change of {difference.detectable or 0:.2g} bits per byte would have been detected; the "
        "effect of this training is smaller or too variable. Not worth it."
    )
