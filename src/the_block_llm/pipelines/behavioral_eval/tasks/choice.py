"""Multiple-choice items, their distractors, and sampling of items."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

N_CHOICES: Final = 4
# Candidates that each distractor is sampled from.
_POOL_FACTOR: Final = 4
_Candidate = TypeVar("_Candidate")


@dataclass(frozen=True)
class ChoiceItem:
    """A multiple-choice question, answered with the likeliest choice."""

    task: str
    item_id: str
    cluster: str
    """Commit or file that the item is made from; items of one cluster are not independent."""
    prefix: str
    """Prompt before the choice, the same for all choices."""
    choices: tuple[str, ...]
    answer: int
    """Index of the correct choice."""
    train_overlap: float = 0.0
    """Fraction of the lines of its commit or file that also occur in training documents."""
    heuristic_baselines: Mapping[str, float] = field(default_factory=dict)
    """Expected accuracy of heuristics that use no model, by name; guessing gets 0.25."""


def heuristic_accuracy(scores: Sequence[float], answer: int) -> float:
    """Return the probability that the choice with the highest score is the answer.

    Ties are broken at random.

    >>> heuristic_accuracy([1, 3, 3, 0], answer=2)
    0.5
    """
    best = max(scores)
    winners = [index for index, score in enumerate(scores) if score == best]
    return 1 / len(winners) if answer in winners else 0.0


def insert_answer(
    answer: str, distractors: Sequence[str], rng: random.Random
) -> tuple[list[str], int]:
    """Insert the answer among the distractors at a random index; return choices and index."""
    choices = list(distractors)
    index = rng.randrange(len(choices) + 1)
    choices.insert(index, answer)
    return choices, index


def sample_nearest(
    candidates: Sequence[_Candidate],
    distance: Callable[[_Candidate], float],
    n: int,
    rng: random.Random,
) -> list[_Candidate]:
    """Sample ``n`` of the ``4 * n`` candidates with the smallest distance.

    Distractors similar to the answer in length or popularity cannot be ruled out by that
    alone. Sampling from more than ``n`` keeps the answer from always being the median.
    """
    order = sorted(candidates, key=lambda candidate: (distance(candidate), rng.random()))
    return rng.sample(order[: _POOL_FACTOR * n], min(n, len(order)))


def abs_log_ratio(first: float, second: float) -> float:
    """Return the absolute log ratio of two counts, with add-one smoothing."""
    return abs(math.log((first + 1) / (second + 1)))


def sample_across_clusters(
    items: Sequence[ChoiceItem], n_items: int, seed: int, *, keep_clusters_together: bool = False
) -> list[ChoiceItem]:
    """Sample up to ``n_items``, one from each cluster before a second from any.

    The number of clusters determines statistical power: a commit of a hundred files is one
    observation.

    Args:
        items: Items to sample from.
        n_items: Maximum number of items.
        seed: The sample is a function of items and seed.
        keep_clusters_together: Take all items of a cluster or none, for paired items.
    """
    rng = random.Random(seed)  # noqa: S311
    shuffled = sorted(items, key=lambda item: item.item_id)
    rng.shuffle(shuffled)
    by_cluster: dict[str, list[ChoiceItem]] = {}
    for item in shuffled:
        by_cluster.setdefault(item.cluster, []).append(item)
    if keep_clusters_together:
        sample: list[ChoiceItem] = []
        for group in by_cluster.values():
            if len(sample) + len(group) <= n_items:
                sample += group
        return sample
    rounds = [
        (depth, order, item)
        for order, group in enumerate(by_cluster.values())
        for depth, item in enumerate(group)
    ]
    rounds.sort(key=lambda entry: entry[:2])
    return [item for _, _, item in rounds[:n_items]]
