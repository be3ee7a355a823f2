"""Which documents hold a hash, in 12 bytes for each pair of the two."""

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]


class Postings:
    """An index that is filled first and asked afterwards.

    A dictionary of lists would take some three hundred bytes for each line of a text.
    """

    def __init__(self) -> None:
        self._added = array("q")
        self._n_added = array("q")
        self._numbers_added = array("i")
        self.keys: Keys = np.empty(0, np.int64)
        """Every key once for each document that holds it, ascending; shape ``(pairs,)``."""
        self.owners: Numbers = np.empty(0, np.int32)
        """Number of the document, ascending for each key, of the same shape."""

    def add(self, number: int, keys: Iterable[int]) -> None:
        """Note the keys of a document, each given once; numbers ascend."""
        before = len(self._added)
        self._added.extend(keys)
        self._n_added.append(len(self._added) - before)
        self._numbers_added.append(number)

    def close(self) -> None:
        """Sort what was added, so that it can be found."""
        added = np.frombuffer(self._added, np.int64)
        order = np.argsort(added, kind="stable")
        self.keys = added[order]
        # Let go of before the next is made: there may be a hundred million.
        del added
        self._added = array("q")
        numbers = np.frombuffer(self._numbers_added, np.int32)
        self.owners = np.repeat(numbers, np.frombuffer(self._n_added, np.int64))[order]

    def find(self, keys: Keys) -> tuple[Places, Places]:
        """Where each key stands that is held at all: places ``[first, last)``, in any order."""
        first = np.searchsorted(self.keys, keys, side="left")
        held = first < len(self.keys)
        held[held] = self.keys[first[held]] == keys[held]
        first = first[held]
        return first, np.searchsorted(self.keys, keys[held], side="right")


def spread(first: Places, last: Places) -> Places:
    """All places of stretches ``[first, last)``, one stretch after the other.

    >>> spread(np.array([3, 9]), np.array([5, 10])).tolist()
    [3, 4, 9]
    """
    lengths = last - first
    begins = np.cumsum(lengths) - lengths
    return np.repeat(first - begins, lengths) + np.arange(int(lengths.sum()))
