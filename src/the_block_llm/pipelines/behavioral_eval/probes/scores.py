"""What one answer shows, from its words alone.

Each score stands by itself; none is folded into another, because a long confused answer and
a short right one may not look alike.
"""

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from the_block_llm.pipelines.behavioral_eval.probes.suites import Probe
from the_block_llm.pipelines.behavioral_eval.probes.word_patterns import Pattern, without_echo
from the_block_llm.retrieval.words import split_words

# Wordings that carry a step of reasoning, each group one way of doing so.
_REASONING: Final[dict[str, tuple[str, ...]]] = {
    "cause": ("because", "since", "due to", "caused by", "as a result of"),
    "consequence": ("therefore", "thus", "hence", "as a result", "consequently", "which means"),
    "contrast": ("however", "but", "although", "whereas", "on the other hand", "instead"),
    "condition": ("if", "unless", "when", "as long as", "in case"),
    "weighing": ("trade off*", "tradeoff*", "risk*", "considering", "depends on"),
    "addition": ("in addition", "moreover", "furthermore", "also"),
}
_INTERACTIONS: Final = (
    "interact*", "coordinat*", "synchroni*", "interface*", "depend*", "coupl*", "communicat*",
    "calls", "reads from", "writes to", "passes to", "shared state",
)  # fmt: skip
_TRADE_OFFS: Final = (
    "trade off*", "tradeoff*", "benefit*", "drawback*", "cost*", "risk*", "advantage*",
    "disadvantage*", "on the other hand", "at the expense of", "but", "however",
)  # fmt: skip

Warning_ = Literal["empty", "loop", "low_variety", "cut_off"]
_LOOP_REPEATS: Final = 3
_LONGEST_LOOP_WORDS: Final = 20
_LOW_VARIETY: Final = 0.5
_VARIETY_FROM_WORDS: Final = 20


@dataclass(frozen=True)
class AnswerScores:
    """The scores of one answer."""

    concepts: tuple[str, ...]
    """Named, of those that the probe asks for."""
    concept_share: float
    """Named ÷ asked for."""
    false_claims: tuple[str, ...]
    reasoning: tuple[str, ...]
    """Ways of reasoning that the wording shows; a style, not proof of sense."""
    reasoning_depth: float
    """Ways shown ÷ all six."""
    mentions_interactions: bool
    mentions_trade_offs: bool
    n_words: int
    distinct_pairs: float
    """Different word pairs ÷ word pairs; 1 where nothing is repeated."""
    warnings: tuple[Warning_, ...]


def score_answer(probe: Probe, completion: str, finish: str) -> AnswerScores:
    """Score ``completion``, the answer without its prompt.

    Args:
        probe: The question and what it asks for.
        completion: The answer.
        finish: ``stop`` where the model ended it, ``length`` where the budget did.
    """
    said = split_words(completion)
    words = without_echo(said, split_words(f"{probe.context} {probe.prompt}"))
    named = tuple(c.concept for c in probe.concepts if c.named_in(words))
    reasoning = tuple(way for way, texts in _REASONING.items() if _any_in(texts, words))
    return AnswerScores(
        concepts=named,
        concept_share=len(named) / len(probe.concepts),
        false_claims=tuple(c.concept for c in probe.must_not_claim if c.named_in(words)),
        reasoning=reasoning,
        reasoning_depth=len(reasoning) / len(_REASONING),
        mentions_interactions=_any_in(_INTERACTIONS, words),
        mentions_trade_offs=_any_in(_TRADE_OFFS, words),
        n_words=len(said),
        distinct_pairs=distinct_pairs(said),
        warnings=_warnings(said, completion, finish),
    )


def distinct_pairs(words: list[str]) -> float:
    """Share of neighbouring word pairs that are different ones.

    >>> distinct_pairs("very good very good very good".split())
    0.4
    """
    pairs = list(itertools.pairwise(words))
    return len(Counter(pairs)) / len(pairs) if pairs else 1.0


def loops(words: list[str]) -> bool:
    """True where some run of words stands three times in direct succession.

    >>> loops("the cache is good good good".split())
    True
    """
    for length in range(1, min(_LONGEST_LOOP_WORDS, len(words) // _LOOP_REPEATS) + 1):
        in_step = 0
        for at in range(length, len(words)):
            in_step = in_step + 1 if words[at] == words[at - length] else 0
            if in_step == length * (_LOOP_REPEATS - 1):
                return True
    return False


def _warnings(words: list[str], completion: str, finish: str) -> tuple[Warning_, ...]:
    found: list[Warning_] = []
    if not words:
        return ("empty",)
    if loops(words):
        found.append("loop")
    if len(words) >= _VARIETY_FROM_WORDS and distinct_pairs(words) < _LOW_VARIETY:
        found.append("low_variety")
    if finish == "length" and not completion.rstrip().endswith((".", "!", "?", "```", "}")):
        found.append("cut_off")
    return tuple(found)


def _any_in(texts: tuple[str, ...], words: list[str]) -> bool:
    return any(Pattern(text).found_in(words) for text in texts)
