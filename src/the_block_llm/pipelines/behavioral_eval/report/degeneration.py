"""What to do where the tuned model's answers fall apart."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from the_block_llm.pipelines.behavioral_eval.probes.scored_answers import ScoredAnswer

_WORDS: Final = {
    "empty": "said nothing",
    "loop": "repeated itself in a loop",
    "low_variety": "used few different word pairs",
    "cut_off": "ran out of its token budget in mid-sentence",
}
_ADVICE: Final = (
    "Lower the learning rate (2e-4 → 1.5e-4); too high a rate is the commonest cause.",
    "Train on more text: below about 500 rows a model learns the rows, not the project.",
    "Mix the kinds of documents; questions of one form teach that form only.",
    "Watch the validation loss: more epochs help only while it still falls.",
)


def coherence_report(answers: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """Count warnings by arm and advise where tuning made them more frequent.

    A cut-off answer is the budget's doing and counts no arm as incoherent.

    Returns:
        ``warnings``: rows of arm, warning, words, n_answers and of_answers;
        ``advice``: empty where the tuned arm is no worse than the base.
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
            "words": words,
            "n_answers": counts[arm, warning],
            "of_answers": totals[arm],
        }
        for arm in arms
        for warning, words in _WORDS.items()
        if counts[arm, warning]
    ]
    broken = {
        arm: sum(
            count for (of, warning), count in counts.items() if of == arm and warning != "cut_off"
        )
        for arm in arms
    }
    return {
        "warnings": warnings,
        "advice": list(_ADVICE) if broken.get("tuned", 0) > broken.get("base", 0) else [],
    }
