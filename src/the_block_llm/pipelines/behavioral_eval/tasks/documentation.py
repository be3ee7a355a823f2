"""Task: which paragraph follows this heading of the later documentation?"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from the_block_llm.pipelines.behavioral_eval.tasks.choice import (
    N_CHOICES,
    ChoiceItem,
    abs_log_ratio,
    heuristic_accuracy,
    insert_answer,
    sample_nearest,
)
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import HistorySplit
from the_block_llm.retrieval.words import split_words

TASK: Final = "text_under_heading"
_HEADING: Final = re.compile(r"^#{1,4} +(.+?) *#*$", re.MULTILINE)
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_MAX_CHARACTERS: Final = 240
_MIN_CHARACTERS: Final = 80
_NGRAM_WORDS: Final = 5
_MAX_KNOWN_FRACTION: Final = 0.3


@dataclass(frozen=True)
class _Section:
    path: str
    heading: str
    text: str


def text_under_heading(history: HistorySplit, seed: int) -> Iterator[ChoiceItem]:
    """Ask for the first paragraph of each documentation section added after the cut-off.

    Distractors are first paragraphs of other new sections, from the same document if it has
    enough of them. All choices are truncated to the same length.
    """
    known = set[tuple[str, ...]]().union(
        *map(_word_ngrams, history.documentation_at_cutoff.values())
    )
    new_sections = [s for s in _sections(history.documentation_at_head) if _is_new(s.text, known)]
    for section in new_sections:
        rng = random.Random(f"{seed}/{section.path}/{section.heading}")  # noqa: S311
        others = [
            s for s in new_sections if s.text != section.text and s.heading != section.heading
        ]
        same_document = [s for s in others if s.path == section.path]
        candidates = same_document if len(same_document) >= N_CHOICES - 1 else others

        def distance(other: _Section, length: int = len(section.text)) -> float:
            return abs_log_ratio(len(other.text), length)

        distractors = sample_nearest(candidates, distance, N_CHOICES - 1, rng)
        if len(distractors) == N_CHOICES - 1:
            yield _item(history.project, section, distractors, rng)


def _is_new(text: str, known: set[tuple[str, ...]]) -> bool:
    """Return True if few n-grams are known, i.e. the text is not a moved or edited copy."""
    ngrams = _word_ngrams(text)
    return len(ngrams & known) < _MAX_KNOWN_FRACTION * len(ngrams)


def _word_ngrams(text: str) -> set[tuple[str, ...]]:
    words = split_words(text)
    return {
        tuple(words[start : start + _NGRAM_WORDS]) for start in range(len(words) - _NGRAM_WORDS + 1)
    }


def _item(
    project: str, section: _Section, distractors: list[_Section], rng: random.Random
) -> ChoiceItem:
    length = min(len(s.text) for s in (section, *distractors))
    choices, answer = insert_answer(
        section.text[:length], [other.text[:length] for other in distractors], rng
    )
    words = set(split_words(section.heading))
    return ChoiceItem(
        task=TASK,
        item_id=f"{TASK}/{section.path}/{section.heading}",
        cluster=section.path,
        prefix=f"Documentation of {project}, {section.path}\n\n## {section.heading}\n\n",
        choices=tuple(choices),
        answer=answer,
        heuristic_baselines={
            "shared words": heuristic_accuracy(
                [len(set(split_words(choice)) & words) for choice in choices], answer
            ),
            "most words": heuristic_accuracy(
                [len(split_words(choice)) for choice in choices], answer
            ),
        },
    )


def _sections(documents: Mapping[str, str]) -> list[_Section]:
    """Return each heading once, with the paragraph that follows it, if that is long enough."""
    sections: dict[tuple[str, str], _Section] = {}
    for path, text in sorted(documents.items()):
        # A "#" in a fenced code block is a comment.
        without_fences = _FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block.group()), text)
        headings = list(_HEADING.finditer(without_fences))
        ends = [heading.start() for heading in headings[1:]] + [len(text)]
        for heading, end in zip(headings, ends[: len(headings)], strict=True):
            paragraph = text[heading.end() : end].strip().split("\n\n")[0].strip()
            if len(paragraph) >= _MIN_CHARACTERS:
                key = (path, heading[1])
                section = _Section(path, heading[1], paragraph[:_MAX_CHARACTERS])
                sections.setdefault(key, section)
    return list(sections.values())
