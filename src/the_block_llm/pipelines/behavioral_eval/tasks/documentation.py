"""What does the later documentation say under this heading?"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from the_block_llm.pipelines.behavioral_eval.tasks.choice import (
    N_CHOICES,
    ChoiceItem,
    arrange,
    log_ratio,
    nearest,
    trick,
)
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import TwoTimes
from the_block_llm.retrieval.words import split_words

TASK: Final = "text_under_heading"
_HEADING: Final = re.compile(r"^#{1,4} +(.+?) *#*$", re.MULTILINE)
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CHARACTERS: Final = 240
_LEAST_CHARACTERS: Final = 80
_RUN_WORDS: Final = 5
_MOST_FAMILIAR: Final = 0.3


@dataclass(frozen=True)
class _Section:
    path: str
    heading: str
    text: str


def text_under_heading(times: TwoTimes, seed: int) -> Iterator[ChoiceItem]:
    """Ask which paragraph opens a section that is new since the cut-off.

    Distractors are openings of other new sections, of the same document where it has enough,
    cut to the same length.
    """
    known = set[tuple[str, ...]]().union(*map(_runs, times.documents_before.values()))
    new = [s for s in _sections(times.documents_after) if _is_new(s.text, known)]
    for section in new:
        source = random.Random(f"{seed}/{section.path}/{section.heading}")  # noqa: S311
        others = [s for s in new if s.text != section.text and s.heading != section.heading]
        same = [s for s in others if s.path == section.path]
        pool = same if len(same) >= N_CHOICES - 1 else others

        def distance(other: _Section, length: int = len(section.text)) -> float:
            return log_ratio(len(other.text), length)

        near = nearest(pool, distance, N_CHOICES - 1, source)
        if len(near) == N_CHOICES - 1:
            yield _item(times.project, section, near, source)


def _is_new(text: str, known: set[tuple[str, ...]]) -> bool:
    """False for a paragraph that mostly stood somewhere before, moved or with a word changed."""
    runs = _runs(text)
    return len(runs & known) < _MOST_FAMILIAR * len(runs)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = split_words(text)
    return {tuple(words[at : at + _RUN_WORDS]) for at in range(len(words) - _RUN_WORDS + 1)}


def _item(
    project: str, section: _Section, distractors: list[_Section], source: random.Random
) -> ChoiceItem:
    length = min(len(s.text) for s in (section, *distractors))
    choices, answer = arrange(
        section.text[:length], [other.text[:length] for other in distractors], source
    )
    words = set(split_words(section.heading))
    return ChoiceItem(
        task=TASK,
        item_id=f"{TASK}/{section.path}/{section.heading}",
        cluster=section.path,
        prefix=f"Documentation of {project}, {section.path}\n\n## {section.heading}\n\n",
        choices=tuple(choices),
        answer=answer,
        tricks={
            "shared words": trick(
                [len(set(split_words(choice)) & words) for choice in choices], answer
            ),
            "most words": trick([len(split_words(choice)) for choice in choices], answer),
        },
    )


def _sections(documents: Mapping[str, str]) -> list[_Section]:
    """Headings with the paragraph below them, long enough to tell apart; no heading twice."""
    found: dict[tuple[str, str], _Section] = {}
    for path, text in sorted(documents.items()):
        # A "#" inside a fenced block is a comment of some program.
        hidden = _FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block.group()), text)
        headings = list(_HEADING.finditer(hidden))
        ends = [heading.start() for heading in headings[1:]] + [len(text)]
        for heading, end in zip(headings, ends[: len(headings)], strict=True):
            body = text[heading.end() : end].strip().split("\n\n")[0].strip()
            if len(body) >= _LEAST_CHARACTERS:
                key = (path, heading[1])
                found.setdefault(key, _Section(path, heading[1], body[:_CHARACTERS]))
    return list(found.values())
