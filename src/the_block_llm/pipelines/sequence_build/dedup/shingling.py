"""Comparable features of a document: normalized text, lines, and word shingles for MinHash."""

import re
from dataclasses import dataclass
from typing import Final

from the_block_llm.pipelines.sequence_build.document import RenderedDocument
from the_block_llm.pipelines.sequence_build.history.line_normalization import normalize_line

_WORD: Final = re.compile(r"\w+")
_PATCH_HEADERS: Final = ("--- ", "+++ ", "@@ ", "created ", "deleted ", "moved ")


@dataclass(frozen=True)
class DocumentFeatures:
    """What deduplication compares of a document's trained text."""

    normalized_text: str
    """The text with runs of white space collapsed."""
    lines: frozenset[str]
    """Normalized informative lines; of a patch, both added and removed ones."""
    new_lines: frozenset[str]
    """``lines`` without the removed lines of a patch, which were in the repository before."""
    shingles: list[str]
    """Word 3-grams. Of a commit, of its patch only: a revert has a different message."""


def extract_features(doc: RenderedDocument) -> DocumentFeatures:
    """Return the features of a document's trained segments; untrained context is ignored."""
    text = "".join(segment.text for segment in doc.segments if segment.train)
    if doc.kind == "commit":
        message, changed = _split_commit(text)
        compared = [line for _, line in changed] or message
        new = [*message, *(line for sign, line in changed if sign == "+")]
        both = [*message, *(line for _, line in changed)]
    else:
        compared = new = both = text.splitlines()
    text = "\n".join(compared)
    return DocumentFeatures(
        normalized_text=" ".join(text.split()),
        lines=(lines := _significant_lines(both)),
        new_lines=lines if new is both else _significant_lines(new),
        shingles=_shingles(_WORD.findall(text)),
    )


def _split_commit(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the lines of the message, and sign and text of the patch's changed lines."""
    message: list[str] = []
    changed: list[tuple[str, str]] = []
    in_patch = False
    for line in text.splitlines():
        in_patch = in_patch or line.startswith(_PATCH_HEADERS)
        if not in_patch:
            message.append(line)
        elif line.startswith(("+", "-")) and not line.startswith(("+++ ", "--- ")):
            changed.append((line[0], line[1:]))
    return message, changed


def _significant_lines(lines: list[str]) -> frozenset[str]:
    return frozenset([bare for line in lines if (bare := normalize_line(line)) is not None])


def _shingles(words: list[str]) -> list[str]:
    if len(words) <= 3:
        return [" ".join(words)] if words else []
    return list(map(" ".join, zip(words, words[1:], words[2:], strict=False)))
