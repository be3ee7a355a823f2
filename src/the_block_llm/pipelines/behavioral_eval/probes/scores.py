"""Lexical scores of an answer: concepts, markers of reasoning, degeneration.

The scores are not aggregated, since an aggregate could rate a long confused answer like a short
correct one.
"""

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from the_block_llm.pipelines.behavioral_eval.probes.suites import Probe
from the_block_llm.pipelines.behavioral_eval.probes.word_patterns import WordPattern, remove_echo
from the_block_llm.retrieval.words import split_words

# Discourse markers of reasoning, by kind.
_REASONING_PATTERNS: Final[dict[str, tuple[str, ...]]] = {
    "cause": ("because", "since", "due to", "caused by", "as a result of"),
    "consequence": ("therefore", "thus", "hence", "as a result", "consequently", "which means"),
    "contrast": ("however", "but", "although", "whereas", "on the other hand", "instead"),
    "condition": ("if", "unless", "when", "as long as", "in case"),
    "weighing": ("trade off*", "tradeoff*", "risk*", "considering", "depends on"),
    "addition": ("in addition", "moreover", "furthermore", "also"),
}
_INTERACTION_PATTERNS: Final = (
    "interact*", "coordinat*", "synchroni*", "interface*", "depend*", "coupl*", "communicat*",
    "calls", "reads from", "writes to", "passes to", "shared state",
)  # fmt: skip
_TRADE_OFF_PATTERNS: Final = (
    "trade off*", "tradeoff*", "benefit*", "drawback*", "cost*", "risk*", "advantage*",
    "disadvantage*", "on the other hand", "at the expense of", "but", "however",
)  # fmt: skip

AnswerWarning = Literal["empty", "loop", "low_variety", "cut_off"]
_MIN_LOOP_REPEATS: Final = 3
_MAX_LOOP_WORDS: Final = 20
_MIN_DISTINCT_BIGRAM_RATIO: Final = 0.5
_VARIETY_MIN_WORDS: Final = 20


@dataclass(frozen=True)
class AnswerScores:
    """The scores of one answer."""

    concepts: tuple[str, ...]
    """Concepts of the probe that the answer names."""
    concept_share: float
    """Fraction of the probe's concepts that the answer names."""
    false_claims: tuple[str, ...]
    reasoning: tuple[str, ...]
    """Kinds of discourse markers in the answer; a property of style, not of correctness."""
    reasoning_depth: float
    """Fraction of the six kinds that occur."""
    mentions_interactions: bool
    mentions_trade_offs: bool
    n_words: int
    distinct_pairs: float
    """Distinct word bigrams ÷ bigrams; 1 without repetition."""
    warnings: tuple[AnswerWarning, ...]


def score_answer(probe: Probe, completion: str, finish: str) -> AnswerScores:
    """Score ``completion``, the answer without its prompt.

    Args:
        probe: The question and its expected concepts.
        completion: The answer.
        finish: ``stop`` if the model ended the answer, ``length`` if it hit the token limit.
    """
    answer_words = split_words(completion)
    words = remove_echo(answer_words, split_words(f"{probe.context} {probe.prompt}"))
    named = tuple(c.concept for c in probe.concepts if c.is_named_in(words))
    reasoning = tuple(
        kind for kind, patterns in _REASONING_PATTERNS.items() if _any_matches(patterns, words)
    )
    return AnswerScores(
        concepts=named,
        concept_share=len(named) / len(probe.concepts),
        false_claims=tuple(c.concept for c in probe.must_not_claim if c.is_named_in(words)),
        reasoning=reasoning,
        reasoning_depth=len(reasoning) / len(_REASONING_PATTERNS),
        mentions_interactions=_any_matches(_INTERACTION_PATTERNS, words),
        mentions_trade_offs=_any_matches(_TRADE_OFF_PATTERNS, words),
        n_words=len(answer_words),
        distinct_pairs=distinct_bigram_ratio(answer_words),
        warnings=_warnings(answer_words, completion, finish),
    )


def distinct_bigram_ratio(words: list[str]) -> float:
    """Return distinct word bigrams ÷ bigrams.

    >>> distinct_bigram_ratio("very good very good very good".split())
    0.4
    """
    pairs = list(itertools.pairwise(words))
    return len(Counter(pairs)) / len(pairs) if pairs else 1.0


def has_loop(words: list[str]) -> bool:
    """Return True if a sequence of words occurs three times in direct succession.

    >>> has_loop("the cache is good good good".split())
    True
    """
    for length in range(1, min(_MAX_LOOP_WORDS, len(words) // _MIN_LOOP_REPEATS) + 1):
        n_repeated = 0
        for index in range(length, len(words)):
            n_repeated = n_repeated + 1 if words[index] == words[index - length] else 0
            if n_repeated == length * (_MIN_LOOP_REPEATS - 1):
                return True
    return False


def _warnings(words: list[str], completion: str, finish: str) -> tuple[AnswerWarning, ...]:
    if not words:
        return ("empty",)
    warnings: list[AnswerWarning] = []
    if has_loop(words):
        warnings.append("loop")
    if (
        len(words) >= _VARIETY_MIN_WORDS
        and distinct_bigram_ratio(words) < _MIN_DISTINCT_BIGRAM_RATIO
    ):
        warnings.append("low_variety")
    if finish == "length" and not completion.rstrip().endswith((".", "!", "?", "```", "}")):
        warnings.append("cut_off")
    return tuple(warnings)


def _any_matches(patterns: tuple[str, ...], words: list[str]) -> bool:
    return any(WordPattern(pattern).matches(words) for pattern in patterns)
