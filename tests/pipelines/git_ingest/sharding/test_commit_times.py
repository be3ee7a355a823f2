"""Times in the order of the history, close to what was recorded."""

import hashlib
from array import array
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from the_block_llm.pipelines.git_ingest.sharding.commit_times import (
    MAX_TIME_S,
    consistent_times,
    separate_ties,
)

NOW = 2_000_000_000


def _times(parents: Sequence[Sequence[int]], recorded: Sequence[int], now: int = NOW) -> list[int]:
    shas = [hashlib.sha1(b"%d" % number).digest() for number in range(len(parents))]
    packed, offsets = bytearray(), array("Q", [0])
    for number, of in enumerate(parents):
        packed += b"".join([shas[number], *(shas[parent] for parent in of)])
        offsets.append(len(packed))
    head = shas[-1].hex()
    return consistent_times(packed, offsets, array("q", recorded), 20, head, now).tolist()


def _line(n_commits: int) -> list[list[int]]:
    return [[number - 1] if number else [] for number in range(n_commits)]


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ([10, 20, 30, 40], [10, 20, 30, 40]),
        ([10, 20, 20, 40], [10, 20, 20, 40]),
        ([10, 0, 30, 40], [10, 10, 30, 40]),
        ([0, 20, 30, 40], [20, 20, 30, 40]),
        ([10, 20, 0, 0], [10, 20, 20, 20]),
        ([0, 0, 0], [0, 0, 0]),
        ([10, 900, 30, 40], [10, 30, 30, 40]),
        ([10, 900, 800, 40], [10, 40, 40, 40]),
        ([10, 25, 22, 40, 50], [10, 22, 22, 40, 50]),
        ([900, 20, 30, 40], [20, 20, 30, 40]),
        ([10, 20, 30, 5], [10, 20, 30, 30]),
        ([10, 20, 30, NOW * 2], [10, 20, 30, 30]),
        ([10, NOW * 2, NOW * 2, 40], [10, 40, 40, 40]),
        ([NOW * 2, NOW * 2 + 1, NOW * 2 + 2], [NOW * 2, NOW * 2 + 1, NOW * 2 + 2]),
        ([10, 20, 30, NOW + 3600], [10, 20, 30, NOW + 3600]),
        ([1 << 60, 1 << 60], [MAX_TIME_S, MAX_TIME_S]),
        ([7], [7]),
    ],
)
def test_a_line_of_commits(recorded: list[int], expected: list[int]) -> None:
    assert _times(_line(len(recorded)), recorded) == expected


@pytest.mark.parametrize(
    ("parents", "recorded", "expected"),
    [
        # A side branch, earlier than its neighbours in topological order, keeps its times.
        ([[], [0], [0], [2], [1, 3]], [10, 50, 20, 30, 60], [10, 50, 20, 30, 60]),
        # A wild commit on it is limited by the merge and the fork.
        ([[], [0], [0], [2], [1, 3]], [10, 50, 900, 30, 60], [10, 50, 30, 30, 60]),
        ([[], [0], [0], [2], [1, 3]], [10, 50, 20, 0, 60], [10, 50, 20, 60, 60]),
        # The tip of another branch is in the future: as late as its parent.
        ([[], [0], [0], [1]], [10, 20, NOW * 2, 30], [10, 20, 10, 30]),
        # Two roots.
        ([[], [], [0, 1]], [50, 900, 60], [50, 60, 60]),
    ],
)
def test_branches(parents: list[list[int]], recorded: list[int], expected: list[int]) -> None:
    assert _times(parents, recorded) == expected


@st.composite
def _histories(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    n_commits = draw(st.integers(1, 30))
    parents = [
        draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else []
        for number in range(n_commits)
    ]
    time = st.one_of(st.integers(-10, 100), st.integers(-(2**63), 2**63 - 1))
    return parents, draw(st.lists(time, min_size=n_commits, max_size=n_commits))


@given(_histories(), st.sampled_from([0, 50, NOW]))
@settings(max_examples=300, deadline=None)
def test_no_commit_is_before_a_parent(history: tuple[list[list[int]], list[int]], now: int) -> None:
    parents, recorded = history
    times = _times(parents, recorded, now)
    assert all(0 <= time <= MAX_TIME_S for time in times)
    for child, of in enumerate(parents):
        assert all(times[parent] <= times[child] for parent in of)


@given(_histories())
@settings(max_examples=200, deadline=None)
def test_times_that_agree_are_not_touched(history: tuple[list[list[int]], list[int]]) -> None:
    parents, recorded = history
    agreed: list[int] = []
    for of, time in zip(parents, recorded, strict=True):
        agreed.append(max([min(max(time, 1), NOW), *(agreed[parent] for parent in of)]))
    assert _times(parents, agreed) == agreed


@given(st.lists(st.integers(0, MAX_TIME_S), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_separated_ties_ascend_strictly_within_the_limits(times: list[int]) -> None:
    ascending = np.array(sorted(times))
    separated = separate_ties(ascending)
    most = max(times.count(time) for time in set(times))
    if most > max(1, 0.05 * len(times)):
        assert (np.diff(separated) > 0).all()
    else:
        assert (separated == ascending).all()
    assert separated[-1] <= MAX_TIME_S
    assert (np.abs(separated - ascending) < len(times)).all()
