"""What a document says that is its own: the lines and wording that comparisons go by."""

import re
from dataclasses import dataclass
from typing import Final

from the_block_llm.pipelines.sequence_build.document import RenderedDocument
from the_block_llm.pipelines.sequence_build.history.line_normalization import normalize_line

_WORD: Final = re.compile(r"\w+")
_HEADER_MARKS: Final = ("--- ", "+++ ", "@@ ", "created ", "deleted ", "moved ")


@dataclass(frozen=True)
class Wording:
    """A document's learned text, as it is compared."""

    whole: str
    """The text, white space aside."""
    lines: frozenset[str]
    """The telling lines; of a patch, those it adds and those it takes away."""
    new_lines: frozenset[str]
    """The same, without what a patch takes away, which stood in the repository before."""
    shingles: list[str]
    """Runs of three words; of a commit, of its patch only, since a revert has words of its own."""


def wording(draft: RenderedDocument) -> Wording:
    """Read a document's own words out of it; text that is shown only does not count."""
    text = "".join(segment.text for segment in draft.segments if segment.train)
    if draft.kind == "commit":
        message, changed = _split_commit(text)
        compared = [line for _, line in changed] or message
        kept = [*message, *(line for sign, line in changed if sign == "+")]
        every = [*message, *(line for _, line in changed)]
    else:
        compared = kept = every = text.splitlines()
    text = "\n".join(compared)
    return Wording(
        whole=" ".join(text.split()),
        lines=(lines := _telling(every)),
        new_lines=lines if kept is every else _telling(kept),
        shingles=_shingles(_WORD.findall(text)),
    )


def _split_commit(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    message: list[str] = []
    changed: list[tuple[str, str]] = []
    in_patch = False
    for line in text.splitlines():
        in_patch = in_patch or line.startswith(_HEADER_MARKS)
        if not in_patch:
            message.append(line)
        elif line.startswith(("+", "-")) and not line.startswith(("+++ ", "--- ")):
            changed.append((line[0], line[1:]))
    return message, changed


def _telling(lines: list[str]) -> frozenset[str]:
    return frozenset([bare for line in lines if (bare := normalize_line(line)) is not None])


def _shingles(words: list[str]) -> list[str]:
    if len(words) <= 3:
        return [" ".join(words)] if words else []
    return list(map(" ".join, zip(words, words[1:], words[2:], strict=False)))
