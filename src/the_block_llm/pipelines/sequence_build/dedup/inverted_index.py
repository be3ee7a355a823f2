"""Inverted index from hashes to documents, 8 or 12 bytes for each (hash, document) pair."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

DocumentNumbers = npt.NDArray[np.int32]
Positions = npt.NDArray[np.int64]

_MIN_FILTER_BITS: Final = 10
_MAX_FILTER_BITS: Final = 27  # 16 MB at most; millions of keys set a few percent of the bits
_FILTER_BITS_PER_KEY: Final = 32
_KEYS_PER_BATCH: Final = 1 << 20


class InvertedIndex:
    """Sorted hashes with the documents that contain them.

    A bit array over the keys' leading bits (a Bloom filter with one hash function) rejects most
    absent keys before the binary search.
    """

    def __init__(self, keys: npt.NDArray[Any], documents: DocumentNumbers) -> None:
        """Build the index.

        Args:
            keys: Hashes of 32 or 64 bits, shape ``(pairs,)``.
            documents: Number of the document that contains each hash, shape ``(pairs,)``.
        """
        self._dtype = np.dtype(f"u{keys.itemsize}")
        keys = keys.view(self._dtype)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self.documents: DocumentNumbers = documents[order]
        """In the order of the sorted keys."""
        wanted_bits = (_FILTER_BITS_PER_KEY * len(keys)).bit_length()
        self._filter_bits = min(_MAX_FILTER_BITS, max(_MIN_FILTER_BITS, wanted_bits))
        self._filter = self._build_filter()

    def find(self, keys: npt.NDArray[Any]) -> tuple[Positions, Positions, Positions]:
        """Look up keys.

        Returns:
            Indices into ``keys`` of those that are present, shape ``(found,)``; and for each the
            range ``[first, last)`` of its entries in :attr:`documents`, of the same shape.
        """
        keys = keys.view(self._dtype)
        bits = self._filter_positions(keys)
        candidates = np.flatnonzero(self._filter[bits >> 3] & _bit_mask(bits))
        # In sorted order, for locality of the binary searches.
        candidates = candidates[np.argsort(keys[candidates], kind="stable")]
        wanted = keys[candidates]
        first = np.searchsorted(self._keys, wanted, side="left")
        is_present = first < len(self._keys)
        is_present[is_present] = self._keys[first[is_present]] == wanted[is_present]
        last = np.searchsorted(self._keys, wanted[is_present], side="right")
        return candidates[is_present], first[is_present], last

    def _build_filter(self) -> npt.NDArray[np.uint8]:
        bit_array = np.zeros(1 << (self._filter_bits - 3), np.uint8)
        for start in range(0, len(self._keys), _KEYS_PER_BATCH):
            bits = self._filter_positions(self._keys[start : start + _KEYS_PER_BATCH])
            byte = bits >> 3
            # Keys are sorted, so those of one byte are adjacent.
            first = np.flatnonzero(np.diff(byte, prepend=-1))
            bit_array[byte[first]] |= np.bitwise_or.reduceat(_bit_mask(bits), first)
        return bit_array

    def _filter_positions(self, keys: npt.NDArray[Any]) -> Positions:
        shift = 8 * self._dtype.itemsize - self._filter_bits
        return (keys >> self._dtype.type(shift)).astype(np.int64)


def expand_ranges(first: Positions, last: Positions) -> Positions:
    """Return all positions of the ranges ``[first, last)``, one range after the other.

    >>> expand_ranges(np.array([3, 9]), np.array([5, 10])).tolist()
    [3, 4, 9]
    """
    lengths = last - first
    offsets = np.cumsum(lengths) - lengths
    return np.repeat(first - offsets, lengths) + np.arange(int(lengths.sum()))


def batch_ranges(lengths: Positions, max_total: int) -> Sequence[slice]:
    """Group consecutive ranges into batches of at most ``max_total`` positions together.

    A range longer than ``max_total`` is a batch by itself.

    >>> batch_ranges(np.array([3, 3, 9, 1]), max_total=6)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    batches: list[slice] = []
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + max_total, side="right")))
        batches.append(slice(start, stop))
        start = stop
    return batches


def _bit_mask(bits: Positions) -> npt.NDArray[np.uint8]:
    return np.left_shift(1, bits & 7).astype(np.uint8)
