"""Which message belongs to this patch, and which patch to this message?"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from the_block_llm.pipelines.behavioral_eval.tasks.choice import (
    N_CHOICES,
    ChoiceItem,
    arrange,
    log_ratio,
    nearest,
    trick,
)
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import LaterCommit, TwoTimes
from the_block_llm.retrieval.words import split_words

MESSAGE_TASK: Final = "message_of_patch"
PATCH_TASK: Final = "patch_of_message"
_PATCH_CHARACTERS: Final = 700
_SHORT_PATCH_CHARACTERS: Final = 300
_LEAST_PATCH_CHARACTERS: Final = 80


@dataclass(frozen=True)
class _Pair:
    """A message and the change it was written for."""

    sha: str
    subject: str
    patch: str


def message_of_patch(times: TwoTimes, seed: int) -> Iterator[ChoiceItem]:
    """Offer the messages of four later commits, about equally long, for one change."""
    pairs = _pairs(times.later)
    for pair in pairs:
        source = random.Random(f"{seed}/{MESSAGE_TASK}/{pair.sha}")  # noqa: S311
        others = _others(pairs, pair)
        length_gap = partial(_gap, lambda p: p.subject, len(pair.subject))
        near = nearest(others, length_gap, N_CHOICES - 1, source)
        if len(near) < N_CHOICES - 1:
            continue
        choices, answer = arrange(pair.subject, [other.subject for other in near], source)
        yield ChoiceItem(
            task=MESSAGE_TASK,
            item_id=f"{MESSAGE_TASK}/{pair.sha[:12]}",
            cluster=pair.sha,
            prefix=(
                f"A change to {times.project}:\n\n{pair.patch[:_PATCH_CHARACTERS]}\n\n"
                "Its commit message:"
            ),
            choices=tuple(f" {choice}\n" for choice in choices),
            answer=answer,
            tricks=_tricks(choices, answer, pair.patch[:_PATCH_CHARACTERS]),
        )


def patch_of_message(times: TwoTimes, seed: int) -> Iterator[ChoiceItem]:
    """Offer the changes of four later commits, cut to one length, for one message."""
    pairs = _pairs(times.later)
    for pair in pairs:
        source = random.Random(f"{seed}/{PATCH_TASK}/{pair.sha}")  # noqa: S311
        length_gap = partial(_gap, lambda p: p.patch, len(pair.patch))
        near = nearest(_others(pairs, pair), length_gap, N_CHOICES - 1, source)
        if len(near) < N_CHOICES - 1:
            continue
        length = min(_SHORT_PATCH_CHARACTERS, *(len(p.patch) for p in (pair, *near)))
        choices, answer = arrange(
            pair.patch[:length], [other.patch[:length] for other in near], source
        )
        yield ChoiceItem(
            task=PATCH_TASK,
            item_id=f"{PATCH_TASK}/{pair.sha[:12]}",
            cluster=pair.sha,
            prefix=f"A commit to {times.project}: {pair.subject}\n\nIts change:\n\n",
            choices=tuple(choices),
            answer=answer,
            tricks=_tricks(choices, answer, pair.subject),
        )


def _pairs(commits: Sequence[LaterCommit]) -> list[_Pair]:
    """Later commits whose message says something, each with its largest patch."""
    pairs = []
    for commit in commits:
        patches = [c.patch for c in commit.changes if c.patch]
        largest = max(patches, key=len, default="")
        if commit.informative and len(largest) >= _LEAST_PATCH_CHARACTERS:
            pairs.append(_Pair(commit.sha, commit.subject.strip(), _hunk(largest)))
    return pairs


def _hunk(patch: str) -> str:
    """The change without its line numbers and file names, which would give it away."""
    lines = [line for line in patch.split("\n") if not line.startswith(("@@", "---", "+++"))]
    return "\n".join(lines).strip("\n")


def _others(pairs: Sequence[_Pair], pair: _Pair) -> list[_Pair]:
    return [p for p in pairs if p.subject != pair.subject and p.patch != pair.patch]


def _gap(text_of: Callable[[_Pair], str], length: int, pair: _Pair) -> float:
    return log_ratio(len(text_of(pair)), length)


def _tricks(choices: Sequence[str], answer: int, other_side: str) -> dict[str, float]:
    words = set(split_words(other_side))
    return {
        "longest": trick([len(choice) for choice in choices], answer),
        "shortest": trick([-len(choice) for choice in choices], answer),
        "shared words": trick([_overlap(choice, words) for choice in choices], answer),
    }


def _overlap(text: str, words: set[str]) -> float:
    """Share of the text's different words that the other side holds as well."""
    own = set(split_words(text))
    return len(own & words) / len(own) if own else 0.0
