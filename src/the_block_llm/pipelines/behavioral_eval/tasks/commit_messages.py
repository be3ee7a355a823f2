"""Tasks: which commit message belongs to this patch, and which patch to this message?"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from the_block_llm.pipelines.behavioral_eval.tasks.choice import (
    N_CHOICES,
    ChoiceItem,
    abs_log_ratio,
    heuristic_accuracy,
    insert_answer,
    sample_nearest,
)
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import HeldOutCommit, HistorySplit
from the_block_llm.retrieval.words import split_words

MESSAGE_TASK: Final = "message_of_patch"
PATCH_TASK: Final = "patch_of_message"
_MAX_PATCH_CHARACTERS: Final = 700
_MAX_CHOICE_CHARACTERS: Final = 300
_MIN_PATCH_CHARACTERS: Final = 80


@dataclass(frozen=True)
class _MessagePatch:
    """The subject of a commit and the largest of its patches, without headers."""

    sha: str
    subject: str
    patch: str


def message_of_patch(history: HistorySplit, seed: int) -> Iterator[ChoiceItem]:
    """Ask for the message of each held-out commit, given its patch.

    Distractors are messages of similar length from other held-out commits.
    """
    pairs = _message_patch_pairs(history.held_out_commits)
    for pair in pairs:
        rng = random.Random(f"{seed}/{MESSAGE_TASK}/{pair.sha}")  # noqa: S311
        distance = partial(_length_distance, lambda p: p.subject, len(pair.subject))
        nearest = sample_nearest(_other_pairs(pairs, pair), distance, N_CHOICES - 1, rng)
        if len(nearest) < N_CHOICES - 1:
            continue
        choices, answer = insert_answer(pair.subject, [other.subject for other in nearest], rng)
        yield ChoiceItem(
            task=MESSAGE_TASK,
            item_id=f"{MESSAGE_TASK}/{pair.sha[:12]}",
            cluster=pair.sha,
            prefix=(
                f"A change to {history.project}:\n\n{pair.patch[:_MAX_PATCH_CHARACTERS]}\n\n"
                "Its commit message:"
            ),
            choices=tuple(f" {choice}\n" for choice in choices),
            answer=answer,
            heuristic_baselines=_heuristic_baselines(
                choices, answer, pair.patch[:_MAX_PATCH_CHARACTERS]
            ),
        )


def patch_of_message(history: HistorySplit, seed: int) -> Iterator[ChoiceItem]:
    """Ask for the patch of each held-out commit, given its message.

    Distractors are patches of other held-out commits. All choices are truncated to the same length.
    """
    pairs = _message_patch_pairs(history.held_out_commits)
    for pair in pairs:
        rng = random.Random(f"{seed}/{PATCH_TASK}/{pair.sha}")  # noqa: S311
        distance = partial(_length_distance, lambda p: p.patch, len(pair.patch))
        nearest = sample_nearest(_other_pairs(pairs, pair), distance, N_CHOICES - 1, rng)
        if len(nearest) < N_CHOICES - 1:
            continue
        length = min(_MAX_CHOICE_CHARACTERS, *(len(p.patch) for p in (pair, *nearest)))
        choices, answer = insert_answer(
            pair.patch[:length], [other.patch[:length] for other in nearest], rng
        )
        yield ChoiceItem(
            task=PATCH_TASK,
            item_id=f"{PATCH_TASK}/{pair.sha[:12]}",
            cluster=pair.sha,
            prefix=f"A commit to {history.project}: {pair.subject}\n\nIts change:\n\n",
            choices=tuple(choices),
            answer=answer,
            heuristic_baselines=_heuristic_baselines(choices, answer, pair.subject),
        )


def _message_patch_pairs(commits: Sequence[HeldOutCommit]) -> list[_MessagePatch]:
    """Return the commits that have an informative message and a large enough patch."""
    pairs = []
    for commit in commits:
        patches = [c.patch for c in commit.changes if c.patch]
        largest = max(patches, key=len, default="")
        if commit.informative and len(largest) >= _MIN_PATCH_CHARACTERS:
            pairs.append(
                _MessagePatch(commit.sha, commit.subject.strip(), _strip_patch_headers(largest))
            )
    return pairs


def _strip_patch_headers(patch: str) -> str:
    """Remove hunk and file headers, whose line numbers and paths would reveal the answer."""
    lines = [line for line in patch.split("\n") if not line.startswith(("@@", "---", "+++"))]
    return "\n".join(lines).strip("\n")


def _other_pairs(pairs: Sequence[_MessagePatch], pair: _MessagePatch) -> list[_MessagePatch]:
    return [p for p in pairs if p.subject != pair.subject and p.patch != pair.patch]


def _length_distance(
    text_of: Callable[[_MessagePatch], str], length: int, pair: _MessagePatch
) -> float:
    return abs_log_ratio(len(text_of(pair)), length)


def _heuristic_baselines(choices: Sequence[str], answer: int, reference: str) -> dict[str, float]:
    words = set(split_words(reference))
    return {
        "longest": heuristic_accuracy([len(choice) for choice in choices], answer),
        "shortest": heuristic_accuracy([-len(choice) for choice in choices], answer),
        "shared words": heuristic_accuracy(
            [_word_overlap(choice, words) for choice in choices], answer
        ),
    }


def _word_overlap(text: str, words: set[str]) -> float:
    """Return the fraction of the distinct words of ``text`` that are in ``words``."""
    text_words = set(split_words(text))
    return len(text_words & words) / len(text_words) if text_words else 0.0
