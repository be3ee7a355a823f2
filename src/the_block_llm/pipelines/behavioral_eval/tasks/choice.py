"""A question with one right answer among several, and how to draw such questions fairly."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

N_CHOICES: Final = 4
_T = TypeVar("_T")


@dataclass(frozen=True)
class ChoiceItem:
    """One question; a model answers with the choice that it finds likeliest."""

    task: str
    item_id: str
    cluster: str
    """Commit or file: items of one stand or fall together."""
    prefix: str
    """What comes before the choice, the same for all of them."""
    choices: tuple[str, ...]
    answer: int
    familiar: float = 0.0
    """Share of the lines of its commit or file that training documents hold as well."""
    tricks: Mapping[str, float] = field(default_factory=dict)
    """By cheap trick, the chance that it picks the answer; 0.25 is what guessing gets."""


def trick(scores: Sequence[float], answer: int) -> float:
    """Chance that whoever takes the highest score takes the answer; ties are drawn.

    >>> trick([1, 3, 3, 0], answer=2)
    0.5
    """
    best = max(scores)
    winners = [index for index, score in enumerate(scores) if score == best]
    return 1 / len(winners) if answer in winners else 0.0


def arrange(
    answer: str, distractors: Sequence[str], source: random.Random
) -> tuple[list[str], int]:
    """Put the answer at a random place among the distractors."""
    choices = list(distractors)
    place = source.randrange(len(choices) + 1)
    choices.insert(place, answer)
    return choices, place


def nearest(
    candidates: Sequence[_T],
    distance: Callable[[_T], float],
    n: int,
    source: random.Random,
    pool: int = 4,
) -> list[_T]:
    """Draw ``n`` of the ``pool * n`` candidates with the least distance.

    Distractors like the answer in length or popularity cannot be told from it by that, and
    drawing from several keeps the answer from always being the middle one.
    """
    order = sorted(candidates, key=lambda candidate: (distance(candidate), source.random()))
    return source.sample(order[: pool * n], min(n, len(order)))


def log_ratio(first: float, second: float) -> float:
    """How far apart two counts are, counted from one."""
    return abs(math.log((first + 1) / (second + 1)))


def draw_spread(
    items: Sequence[ChoiceItem], n_items: int, seed: int, *, whole_clusters: bool = False
) -> list[ChoiceItem]:
    """Draw ``n_items`` at most, one from each cluster before a second from any.

    More clusters are more evidence: a commit of a hundred files is one event.

    Args:
        items: To draw from.
        n_items: How many at most.
        seed: The same seed draws the same items.
        whole_clusters: Draw all items of a cluster or none, for items that come in pairs.
    """
    source = random.Random(seed)  # noqa: S311
    shuffled = sorted(items, key=lambda item: item.item_id)
    source.shuffle(shuffled)
    by_cluster: dict[str, list[ChoiceItem]] = {}
    for item in shuffled:
        by_cluster.setdefault(item.cluster, []).append(item)
    if whole_clusters:
        drawn: list[ChoiceItem] = []
        for group in by_cluster.values():
            if len(drawn) + len(group) <= n_items:
                drawn += group
        return drawn
    rounds = [
        (depth, order, item)
        for order, group in enumerate(by_cluster.values())
        for depth, item in enumerate(group)
    ]
    rounds.sort(key=lambda entry: entry[:2])
    return [item for _, _, item in rounds[:n_items]]
