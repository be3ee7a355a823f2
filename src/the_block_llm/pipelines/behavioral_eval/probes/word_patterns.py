"""Patterns of whole words, matched against the words of a text.

Substring search gives false positives ("distributed" contains "but"), so text is split into
words and patterns are matched word by word.
"""

import re
from collections.abc import Sequence
from typing import Final

from the_block_llm.retrieval.words import split_words

_PATTERN_WORD: Final = re.compile(r"[^\W_]+(?:'[^\W_]+)?\*?$")
# Shorter n-grams are common English; longer ones are quotations of the question.
_ECHO_NGRAM_WORDS: Final = 5


class WordPattern:
    """A sequence of words; a word that ends in ``*`` matches every word with that prefix.

    >>> WordPattern("depend* on").matches(split_words("It depends on the parser."))
    True
    >>> WordPattern("but").matches(split_words("a distributed system"))
    False
    """

    def __init__(self, text: str) -> None:
        """Parse the pattern.

        Raises:
            ValueError: The pattern is empty, or has a ``*`` that is not at the end of a word.
        """
        parts = re.sub(r"[-/_]", " ", text).split()
        if not parts or not all(_PATTERN_WORD.match(part) for part in parts):
            raise ValueError(
                f"{text!r} is not a valid pattern: use words, each with at most one * at its end"
            )
        self.text = text
        self._words = [
            (word.removesuffix("*"), word.endswith("*"))
            for part in parts
            for word in _split_pattern_word(part)
        ]

    def matches(self, words: Sequence[str]) -> bool:
        """Return True if the pattern's words occur consecutively in ``words``."""
        length = len(self._words)
        return any(
            all(
                word.startswith(stem) if is_stem else word in (stem, f"{stem}'s")
                for word, (stem, is_stem) in zip(words[start:], self._words, strict=False)
            )
            for start in range(len(words) - length + 1)
        )


def remove_echo(answer: Sequence[str], question: Sequence[str]) -> list[str]:
    """Remove the 5-grams of ``question`` from ``answer``.

    Repeating the question must not score. A question of fewer than five words is one n-gram.
    """
    n = min(_ECHO_NGRAM_WORDS, len(question))
    if not n:
        return list(answer)
    ngrams = {tuple(question[start : start + n]) for start in range(len(question) - n + 1)}
    is_echo = [False] * len(answer)
    for start in range(len(answer) - n + 1):
        if tuple(answer[start : start + n]) in ngrams:
            is_echo[start : start + n] = [True] * n
    return [word for word, echoed in zip(answer, is_echo, strict=True) if not echoed]


def _split_pattern_word(part: str) -> list[str]:
    """Split a pattern's word as text is split; the star stays with the last part."""
    words = split_words(part.removesuffix("*"))
    if part.endswith("*"):
        words[-1] += "*"
    return words
