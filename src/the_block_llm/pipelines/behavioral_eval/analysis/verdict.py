"""From differences to words, by rules that are written down here and in the report.

A measure has shown something only if chance is an unlikely explanation after correcting for
how many measures there are, and there were enough independent sources to tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from the_block_llm.pipelines.behavioral_eval.analysis.statistics import (
    MIN_CLUSTERS,
    Difference,
    holm,
)

Outcome = Literal["better", "worse", "no difference shown", "too little data"]
Weight = Literal["primary", "knowledge", "part", "ability"]

SIGNIFICANCE: Final = 0.05
RULES: Final = (
    (
        "Tuned and base are measured on the same items; the text was committed after the cut-off, "
        "so neither has seen it."
    ),
    (
        f"A measure needs items from at least {MIN_CLUSTERS} different commits or files; with "
        "fewer it says: too little data."
    ),
    (
        "A measure shows a difference if its 95 % interval leaves out zero and its p-value, "
        f"corrected for the number of measures (Holm), is below {SIGNIFICANCE}."
    ),
    (
        "Held-out text decides. Better: it got better and no other measure of knowledge got worse. "
        "Worse: it got worse, or something else did and it did not get better."
    ),
    (
        "Anything else is: no difference shown. That is a statement about this evaluation, which "
        "could have missed a difference smaller than the detectable one given beside each measure."
    ),
)


@dataclass(frozen=True)
class Measure:
    """One thing measured in both arms."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    weight: Weight
    """``primary`` decides, ``knowledge`` can contradict it, ``part`` and ``ability`` inform."""
    difference: Difference


@dataclass(frozen=True)
class Judged:
    """A measure with what it shows."""

    measure: Measure
    p_corrected: float
    outcome: Outcome


@dataclass(frozen=True)
class Verdict:
    """The answer to: was it worth it?"""

    outcome: Outcome
    sentence: str
    reasons: tuple[str, ...]


def judge_measures(measures: Sequence[Measure]) -> list[Judged]:
    """Say of each measure what it shows.

    The measures that can move the verdict are corrected together, the others each alone:
    they do not decide, and an alarm should rather be raised once too often.
    """
    tested = [m for m in measures if _has_enough(m) and m.weight in ("primary", "knowledge")]
    corrected = dict(
        zip(
            [m.name for m in tested],
            holm([m.difference.p_value for m in tested]),
            strict=True,
        )
    )
    judged = []
    for measure in measures:
        p_corrected = corrected.get(measure.name, measure.difference.p_value)
        judged.append(Judged(measure, p_corrected, _outcome(measure, p_corrected)))
    return judged


def reach_verdict(judged: Sequence[Judged]) -> Verdict:
    """Apply the rules."""
    primary = next((j for j in judged if j.measure.weight == "primary"), None)
    if primary is None:
        return Verdict(
            outcome="too little data",
            sentence="There is no held-out text to tell by. Use an earlier cut-off.",
            reasons=(),
        )
    knowledge = [j for j in judged if j.measure.weight == "knowledge"]
    better = [j for j in knowledge if j.outcome == "better"]
    worse = [j for j in knowledge if j.outcome == "worse"]
    forgotten = [j for j in judged if j.measure.weight == "ability" and j.outcome == "worse"]
    outcome: Outcome = primary.outcome
    if outcome == "better" and worse:
        outcome = "no difference shown"
    elif outcome != "better" and worse:
        outcome = "worse"
    reasons = [_in_words(primary)]
    reasons += [_in_words(j) for j in (*better, *worse)]
    if forgotten:
        reasons.append(f"It has forgotten: {'; '.join(map(_in_words, forgotten))}")
    return Verdict(
        outcome=outcome,
        sentence=_sentence(outcome, primary, bool(worse), bool(forgotten)),
        reasons=tuple(reasons),
    )


def _has_enough(measure: Measure) -> bool:
    return measure.difference.n_clusters >= MIN_CLUSTERS


def _outcome(measure: Measure, p_corrected: float) -> Outcome:
    if not _has_enough(measure):
        return "too little data"
    difference = measure.difference
    if p_corrected >= SIGNIFICANCE or difference.low <= 0 <= difference.high:
        return "no difference shown"
    return "better" if (difference.difference > 0) == measure.higher_is_better else "worse"


def _in_words(judged: Judged) -> str:
    seen = judged.measure.difference
    digits = 3 if judged.measure.unit == "bits per byte" else 2
    return (
        f"{judged.measure.title}: {seen.first:.{digits}f} → {seen.second:.{digits}f} "
        f"{judged.measure.unit} ({judged.outcome}; {seen.n_items} items from "
        f"{seen.n_clusters} sources)"
    )


def _sentence(outcome: Outcome, primary: Judged, contradicted: bool, forgot: bool) -> str:
    seen = primary.measure.difference
    change = 100 * seen.difference / seen.first if seen.first else 0.0
    if outcome == "better":
        ability = ", but it has lost some general ability" if forgot else ""
        return (
            f"The tuned model knows this project better than the base: it needs {-change:.1f} % "
            f"fewer bits for text that neither has seen{ability}."
        )
    if outcome == "worse":
        return "The tuned model is worse than the base. Not worth it as it stands: use the base."
    if outcome == "too little data":
        return (
            f"There is too little held-out text to tell: {seen.n_clusters} commits or files, "
            f"{MIN_CLUSTERS} needed. Use a repository with more history, or an earlier cut-off."
        )
    if contradicted:
        return (
            "Mixed: held-out text got easier, but another measure of knowledge got worse. Not "
            "worth it as it stands."
        )
    return (
        f"A change of {seen.detectable or 0:.2g} bits per byte would have been seen; whatever this "
        "training did is smaller, or too uneven to tell. Not worth it as it stands."
    )
