"""Which documents hold a hash, in 8 or 12 bytes for each pair of the two."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

_SIEVE_BITS: Final = (10, 27)  # 16 MB at most, of which millions of keys fill a few hundredths
_PLACES_A_KEY: Final = 32
_KEYS_AT_ONCE: Final = 1 << 20


class Postings:
    """An index of hashes, sorted; most of what it does not hold never gets to a search."""

    def __init__(self, keys: npt.NDArray[Any], owners: Numbers) -> None:
        """Take in what documents hold.

        Args:
            keys: Hashes of 32 or 64 bits, shape ``(pairs,)``.
            owners: Of each the number of the document that holds it, ``(pairs,)``.
        """
        self._type = np.dtype(f"u{keys.itemsize}")
        keys = keys.view(self._type)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self.owners: Numbers = owners[order]
        """In the order of the keys."""
        least, most = _SIEVE_BITS
        self._bits = min(most, max(least, (_PLACES_A_KEY * len(keys)).bit_length()))
        self._sieve = self._sieved()

    def find(self, keys: npt.NDArray[Any]) -> tuple[Places, Places, Places]:
        """Where keys are held.

        Returns:
            The numbers of those that are, ``(found,)``; and of each the stretch
            ``[first, last)`` of its places in :attr:`owners`, of the same shape.
        """
        keys = keys.view(self._type)
        places = self._places(keys)
        likely = np.flatnonzero(self._sieve[places >> 3] & _bit(places))
        # In their order, so that a search goes where the last one was.
        likely = likely[np.argsort(keys[likely], kind="stable")]
        wanted = keys[likely]
        first = np.searchsorted(self._keys, wanted, side="left")
        held = first < len(self._keys)
        held[held] = self._keys[first[held]] == wanted[held]
        last = np.searchsorted(self._keys, wanted[held], side="right")
        return likely[held], first[held], last

    def _sieved(self) -> npt.NDArray[np.uint8]:
        sieve = np.zeros(1 << (self._bits - 3), np.uint8)
        for begin in range(0, len(self._keys), _KEYS_AT_ONCE):
            places = self._places(self._keys[begin : begin + _KEYS_AT_ONCE])
            at = places >> 3
            # Keys are sorted, so those of one byte are neighbours.
            first = np.flatnonzero(np.diff(at, prepend=-1))
            sieve[at[first]] |= np.bitwise_or.reduceat(_bit(places), first)
        return sieve

    def _places(self, keys: npt.NDArray[Any]) -> Places:
        return (keys >> self._type.type(8 * self._type.itemsize - self._bits)).astype(np.int64)


def spread(first: Places, last: Places) -> Places:
    """All places of stretches ``[first, last)``, one stretch after the other.

    >>> spread(np.array([3, 9]), np.array([5, 10])).tolist()
    [3, 4, 9]
    """
    lengths = last - first
    begins = np.cumsum(lengths) - lengths
    return np.repeat(first - begins, lengths) + np.arange(int(lengths.sum()))


def slices(lengths: Places, most: int) -> Sequence[slice]:
    """Divide stretches into slices of together about ``most`` places.

    >>> slices(np.array([3, 3, 9, 1]), most=6)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    found: list[slice] = []
    ends = np.cumsum(lengths)
    begin = 0
    while begin < len(lengths):
        before = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + most, side="right")))
        found.append(slice(begin, end))
        begin = end
    return found


def _bit(places: Places) -> npt.NDArray[np.uint8]:
    return np.left_shift(1, places & 7).astype(np.uint8)
