"""Whole words in a text, and the patterns that look for them.

A substring is no evidence: "distributed" holds the letters of "but". So text becomes a list
of words first, and a pattern is compared word by word.
"""

import re
from collections.abc import Sequence
from typing import Final

from the_block_llm.retrieval.words import split_words

_PATTERN_WORD: Final = re.compile(r"[^\W_]+(?:'[^\W_]+)?\*?$")
# Shorter runs are ordinary English; from here on it is the question's own sentence.
_ECHO_WORDS: Final = 5


class Pattern:
    """One word or several in a row; a word that ends in ``*`` stands for all it begins.

    >>> Pattern("depend* on").found_in(split_words("It depends on the parser."))
    True
    >>> Pattern("but").found_in(split_words("a distributed system"))
    False
    """

    def __init__(self, text: str) -> None:
        """Read the pattern.

        Raises:
            ValueError: It is empty, or a ``*`` stands elsewhere than at a word's end.
        """
        parts = re.sub(r"[-/_]", " ", text).split()
        if not parts or not all(_PATTERN_WORD.match(part) for part in parts):
            raise ValueError(
                f"{text!r} is no pattern: give words, each with at most one * at its end"
            )
        self.text = text
        self._words = [
            (word.removesuffix("*"), word.endswith("*"))
            for part in parts
            for word in _parts_of(part)
        ]

    def found_in(self, words: Sequence[str]) -> bool:
        """True where the pattern's words follow each other in ``words``."""
        length = len(self._words)
        return any(
            all(
                word.startswith(stem) if is_stem else word in (stem, f"{stem}'s")
                for word, (stem, is_stem) in zip(words[at:], self._words, strict=False)
            )
            for at in range(len(words) - length + 1)
        )


def without_echo(answer: Sequence[str], question: Sequence[str]) -> list[str]:
    """Take out of ``answer`` every run of five words or more that ``question`` holds.

    Repeating what was asked is not an answer. A question of fewer than five words counts
    as a run of its own length.
    """
    run = min(_ECHO_WORDS, len(question))
    if not run:
        return list(answer)
    asked = {tuple(question[at : at + run]) for at in range(len(question) - run + 1)}
    echoed = [False] * len(answer)
    for at in range(len(answer) - run + 1):
        if tuple(answer[at : at + run]) in asked:
            echoed[at : at + run] = [True] * run
    return [word for word, is_echo in zip(answer, echoed, strict=True) if not is_echo]


def _parts_of(part: str) -> list[str]:
    """A pattern's word falls apart like a text's; the star stays with the last part."""
    words = split_words(part.removesuffix("*"))
    if part.endswith("*"):
        words[-1] += "*"
    return words
