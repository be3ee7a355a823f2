"""Which documents hold a hash, in 12 bytes for each pair of the two."""

from array import array
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

_RUN_KEYS: Final = 8_000_000  # 64 MB


class Postings:
    """An index that is filled first and asked afterwards.

    A dictionary of lists would take some three hundred bytes for each line of a text. Keys are
    sorted in runs while they come, so that no second copy of all is ever made.
    """

    def __init__(self, run_keys: int = _RUN_KEYS) -> None:
        """Begin an empty index.

        Args:
            run_keys: How many keys are sorted at a time.
        """
        self._run_keys = run_keys
        self._added, self._n_added, self._numbers_added = array("q"), array("q"), array("i")
        self._runs: list[Keys] = []
        self._owners: list[Numbers] = []
        self.owners: Numbers = np.empty(0, np.int32)
        """Of every pair of a key and a document the number of the document, ``(pairs,)``."""

    def add(self, number: int, keys: Iterable[int]) -> None:
        """Note the keys of a document, each given once."""
        before = len(self._added)
        self._added.extend(keys)
        self._n_added.append(len(self._added) - before)
        self._numbers_added.append(number)
        if len(self._added) >= self._run_keys:
            self._sort_added()

    def close(self) -> None:
        """Make what was added ready to be found."""
        self._sort_added()
        self.owners = np.concatenate(self._owners)
        self._owners = []

    def find(self, keys: Keys) -> tuple[Places, Places]:
        """Stretches ``[first, last)`` of places in :attr:`owners` where one of the keys is held.

        A key has at most one stretch in each run, always the same.
        """
        firsts, lasts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        offset = 0
        for run in self._runs:
            first = np.searchsorted(run, keys, side="left")
            held = first < len(run)
            held[held] = run[first[held]] == keys[held]
            firsts.append(first[held] + offset)
            lasts.append(np.searchsorted(run, keys[held], side="right") + offset)
            offset += len(run)
        return np.concatenate(firsts), np.concatenate(lasts)

    def _sort_added(self) -> None:
        added = np.frombuffer(self._added, np.int64)
        order = np.argsort(added, kind="stable")
        numbers = np.frombuffer(self._numbers_added, np.int32)
        self._runs.append(added[order])
        self._owners.append(np.repeat(numbers, np.frombuffer(self._n_added, np.int64))[order])
        self._added, self._n_added, self._numbers_added = array("q"), array("q"), array("i")


def spread(first: Places, last: Places) -> Places:
    """All places of stretches ``[first, last)``, one stretch after the other.

    >>> spread(np.array([3, 9]), np.array([5, 10])).tolist()
    [3, 4, 9]
    """
    lengths = last - first
    begins = np.cumsum(lengths) - lengths
    return np.repeat(first - begins, lengths) + np.arange(int(lengths.sum()))
