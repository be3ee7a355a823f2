"""Commit times that agree with the order of the history.

A commit records what the clock of its machine said: the year 55840 if a script counted
milliseconds, 1970 after an empty battery. The cut-off compares times, so a commit with such a time
would be held out while its children are trained on. Here every commit gets a time that is not
before those of its parents; the recorded one wherever that is possible.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_TIME_S: Final = 4_102_444_799
"""The last second of 2099. Later times are damage, and few programs can show them."""
_CLOCK_TOLERANCE_S: Final = 86_400  # time zones, and clocks that are a little fast
_MAX_SHARE_OF_A_SECOND: Final = 0.05
_KEY_BYTES: Final = 8
_UNKNOWN: Final = MAX_TIME_S + 1

Times = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Edges:
    """Pairs of a commit and a parent of it, as indices in topological order."""

    children: Indices
    parents: Indices


def consistent_times(
    packed: bytes | bytearray,
    offsets: "array[int]",
    times: "array[int]",
    sha_bytes: int,
    head: str,
    now_s: int,
) -> Times:
    """Return a time for each commit that is at or after those of its parents.

    Recorded times stay if they are in order, known and not in the future. Otherwise the longest
    run of times on the first-parent history of ``head`` that is in order, up to now, is kept; each
    other commit gets its recorded time limited by those of its nearest neighbours.

    Args:
        packed: For each commit its binary sha and those of its parents, parents first.
        offsets: Start of each commit in ``packed``, and its end; shape ``(n_commits + 1,)``.
        times: Recorded commit times in seconds since 1970.
        sha_bytes: Length of a sha.
        head: Sha of the newest commit.
        now_s: Seconds since 1970; times a day after it are not believed.
    """
    recorded = np.clip(np.frombuffer(times, np.int64), 0, MAX_TIME_S)
    edges, head_index = _edges(packed, offsets, sha_bytes, head)
    # Zero stands for a date that is missing or cannot be parsed.
    is_doubtful = (recorded == 0) | (recorded > now_s + _CLOCK_TOLERANCE_S)
    if is_doubtful.all():
        is_doubtful[:] = False  # nothing to compare with
    if not is_doubtful.any() and not (recorded[edges.parents] > recorded[edges.children]).any():
        return recorded
    main_line = _main_line(edges, head_index, len(recorded))
    return _limit_by_neighbours(recorded, edges, main_line, is_doubtful)


def separate_ties(times: Times) -> Times:
    """Put commits a second apart, at least, if many of them share one.

    Otherwise a cut-off by time could not divide a history whose commits were all made at once, by
    an import or a script.

    Args:
        times: Ascending.

    >>> separate_ties(np.array([10, 10, 10, 12]))
    array([10, 11, 12, 13])
    """
    if len(times) < 2:
        return times
    starts = np.flatnonzero(np.concatenate([[True], times[1:] != times[:-1], [True]]))
    if np.diff(starts).max() <= max(1, _MAX_SHARE_OF_A_SECOND * len(times)):
        return times
    position = np.arange(len(times))
    separated = np.maximum.accumulate(times - position) + position
    # The minimum of two strictly ascending series is one too.
    limited: Times = np.minimum(separated, MAX_TIME_S - position[::-1])
    return limited


def _edges(
    packed: bytes | bytearray, offsets: "array[int]", sha_bytes: int, head: str
) -> tuple[_Edges, int]:
    """Return the edges between the listed commits, and the index of ``head``."""
    # The first eight bytes of a sha tell millions of commits apart.
    records = np.frombuffer(packed, np.uint8).reshape(-1, sha_bytes)[:, :_KEY_BYTES]
    keys = np.ascontiguousarray(records).view(np.uint64).ravel()
    bounds = np.frombuffer(offsets, np.uint64).astype(np.int64) // sha_bytes
    commits, n_parents = bounds[:-1], np.diff(bounds) - 1
    is_parent = np.ones(len(keys), np.bool_)
    is_parent[commits] = False
    by_key = np.argsort(keys[commits], kind="stable")
    sorted_keys = keys[commits][by_key]
    position = np.searchsorted(sorted_keys, keys[is_parent])
    position[position == len(sorted_keys)] = 0
    is_listed = sorted_keys[position] == keys[is_parent]  # a shallow clone lacks the others
    children = np.repeat(np.arange(len(commits)), n_parents)
    head_key = np.frombuffer(bytes.fromhex(head)[:_KEY_BYTES], np.uint64)
    head_position = int(np.searchsorted(sorted_keys, head_key[0]))
    return _Edges(children[is_listed], by_key[position][is_listed]), int(by_key[head_position])


def _main_line(edges: _Edges, head_index: int, n_commits: int) -> list[int]:
    """Return the first-parent history of the head, oldest first."""
    # Edges of a commit are in the order of its parents; a root has none.
    children, first = np.unique(edges.children, return_index=True)
    first_parents = np.full(n_commits, -1)
    first_parents[children] = edges.parents[first]
    line = [head_index]
    while (parent := int(first_parents[line[-1]])) >= 0:
        line.append(parent)
    return line[::-1]


def _limit_by_neighbours(
    recorded: Times, edges: _Edges, main_line: Sequence[int], is_doubtful: npt.NDArray[np.bool_]
) -> Times:
    limited = array("q", recorded.tobytes())
    candidates = [index for index in main_line if not is_doubtful[index]] or main_line
    kept = set(_longest_ascending(candidates, limited))
    lowest = 0
    for index in main_line:
        limited[index] = lowest = limited[index] if index in kept else lowest
    # Before the first that is kept, or later than the next one.
    highest = None
    for index in reversed(main_line):
        if index in kept:
            highest = limited[index]
        elif highest is not None:
            time = max(int(recorded[index]), limited[index]) or highest
            limited[index] = highest = min(time, highest)

    n_commits = len(limited)
    is_fixed, is_root = np.zeros(n_commits, np.bool_), np.ones(n_commits, np.bool_)
    is_fixed[main_line], is_root[edges.children] = True, False
    unknown = np.flatnonzero(is_doubtful & ~is_fixed & ~is_root).tolist()
    for index in unknown:
        limited[index] = _UNKNOWN
    # Arrays: lists of a million numbers would take ten times the memory.
    children, parents = (array("q", ends.tobytes()) for ends in (edges.children, edges.parents))
    fixed = is_fixed.tobytes()
    upper = array("q", [_UNKNOWN]) * n_commits
    # Children first: no commit is later than what was built on it.
    for edge in range(len(children) - 1, -1, -1):
        child, parent = children[edge], parents[edge]
        if not fixed[child] and upper[child] < limited[child]:
            limited[child] = upper[child]
        upper[parent] = min(upper[parent], limited[child])
    for index in np.flatnonzero(is_root & ~is_fixed).tolist():
        limited[index] = min(limited[index], upper[index])
    for index in unknown:
        if limited[index] == _UNKNOWN:
            limited[index] = 0  # the tip of another branch: as late as its parents
    # Parents first.
    for child, parent in zip(children, parents, strict=True):
        if not fixed[child] and limited[parent] > limited[child]:
            limited[child] = limited[parent]
    return np.frombuffer(limited, np.int64)


def _longest_ascending(indices: Sequence[int], times: "array[int]") -> list[int]:
    """Return the longest subsequence of ``indices`` whose times do not descend.

    >>> _longest_ascending([0, 1, 2, 3, 4], array("q", [10, 99, 20, 5, 30]))
    [0, 2, 4]
    """
    ends: list[int] = []  # smallest last time of a subsequence of each length
    last: list[int] = []  # its position
    previous = [-1] * len(indices)
    for position, index in enumerate(indices):
        length = bisect_right(ends, times[index])
        previous[position] = last[length - 1] if length else -1
        if length == len(ends):
            ends.append(times[index])
            last.append(position)
        else:
            ends[length], last[length] = times[index], position
    chosen = []
    position = last[-1] if last else -1
    while position >= 0:
        chosen.append(indices[position])
        position = previous[position]
    return chosen[::-1]
