"""Counts degenerate answers and suggests remedies if tuning made them more frequent."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from the_block_llm.pipelines.behavioral_eval.probes.scored_answers import ScoredAnswer

_DESCRIPTIONS: Final = {
    "empty": "are empty",
    "loop": "repeat a phrase in a loop",
    "low_variety": "have few distinct word pairs",
    "cut_off": "reached the token limit in mid-sentence",
}
_REMEDIES: Final = (
    "Lower the learning rate (2e-4 → 1.5e-4); a rate that is too high is the most common cause.",
    "Train on more text: below about 500 rows a model memorizes the rows.",
    "Mix document kinds; questions of a single form teach only that form.",
    "Check the validation loss: more epochs help only while it decreases.",
)


def degeneration_report(answers: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """Count warnings by arm; add advice if the tuned arm degenerates more often than the base.

    Truncated answers are listed but do not count as degenerate, since the token limit causes
    them.

    Returns:
        ``warnings``: rows of arm, warning, words, n_answers and of_answers;
        ``advice``: empty if the tuned arm is no worse than the base.
    """
    arms = list(dict.fromkeys(a.arm for a in answers))
    totals = Counter(a.arm for a in answers)
    counts: Counter[tuple[str, str]] = Counter(
        (a.arm, warning) for a in answers for warning in a.scores.warnings
    )
    warnings = [
        {
            "arm": arm,
            "warning": warning,
            "words": description,
            "n_answers": counts[arm, warning],
            "of_answers": totals[arm],
        }
        for arm in arms
        for warning, description in _DESCRIPTIONS.items()
        if counts[arm, warning]
    ]
    degenerate = Counter[str]()
    for (arm, warning), count in counts.items():
        if warning != "cut_off":
            degenerate[arm] += count
    return {
        "warnings": warnings,
        "advice": list(_REMEDIES) if degenerate["tuned"] > degenerate["base"] else [],
    }
