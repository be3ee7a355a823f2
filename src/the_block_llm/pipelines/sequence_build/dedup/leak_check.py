"""Documents after a line that say what training already says: copies, moves, reverts.

Held-out documents are compared with everything that training and the choice of a checkpoint
see, validation documents with everything that is learned. Two measures, because neither sees
all: the share of a document's own lines that training holds verbatim, wherever they stand
(moves, cherry-picks, reverts), and the likeness of its wording by MinHash (copies that were
touched up). What is found leaves the later side; training stays as it is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from the_block_llm.memory import trim_heap
from the_block_llm.pipelines.sequence_build.dedup.inverted_index import (
    Places,
    Postings,
    slices,
    spread,
)
from the_block_llm.pipelines.sequence_build.dedup.signatures import Worded
from the_block_llm.schemas import SPLITS, Split

LeakReason = Literal["revert", "cherry_pick", "exact_duplicate", "known_lines", "near_duplicate"]

_LINE_SHARED_BY: Final = 64  # a line of more held-back documents says little of its source
_PAIRS_AT_ONCE: Final = 2_000_000
_SIGNATURES_AT_ONCE: Final = 16_384  # pairs; 8 MB
_CHANCE: Final = 1 / 256  # that two bytes of signatures are the same
_TRAIN, _VALIDATION, _HELD_OUT = range(3)
# By side, a bit for each that comes before it; and a side's own bit.
_EARLIER: Final = np.array([0, 1 << _TRAIN, 1 << _TRAIN | 1 << _VALIDATION], np.uint8)
_BIT: Final = np.array([1 << _TRAIN, 1 << _VALIDATION, 0], np.uint8)

_Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Leak:
    """A document that had to go, and what gave it away."""

    document_id: str
    source: str
    """Path of the file it was about, or sha of the commit."""
    split: Split
    reason: LeakReason
    nearest: str
    """Id of the training document, or sha, that says the same."""
    similarity: float


class LeakCheck:
    """Watches over held-back documents while everything else passes by."""

    def __init__(self, held_back: Iterable[Worded], similarity: float) -> None:
        """Take in documents of validation and held-out.

        Args:
            held_back: Of each, 13 bytes a line are kept and some 900 for its wording and name.
            similarity: From which share of known lines, or likeness, a document goes.
        """
        self._similarity = similarity
        some = Worded.together([one.without_old_lines() for one in held_back])
        trim_heap()
        self._ids, self._sources, self._named = some.ids, some.sources, some.named
        self._sides, self._n_new, self._signatures = some.sides, some.n_new, some.signatures
        n_documents = len(some)
        numbers = np.arange(n_documents, dtype=np.int32)
        self._lines = Postings(some.lines, np.repeat(numbers, some.n_new))
        worded = np.flatnonzero(some.has_words)
        self._texts = Postings(some.whole[worded], numbers[worded])
        bands = some.bands[worded]
        # To index them takes the most memory of all this.
        del some
        trim_heap()
        self._bands = Postings(bands.ravel(), np.repeat(numbers[worded], bands.shape[1]))
        # Of each line of each document, by which sides it was seen.
        self._seen_by = np.zeros(len(self._lines.owners), np.uint8)
        self._most_lines, self._likeness, self._copies = (
            _Best(np.zeros(n_documents), np.full(n_documents, "", object)) for _ in range(3)
        )

    def see(self, seen: Worded) -> None:
        """Compare documents of training and validation with what is held back after them."""
        seen = seen.take(np.flatnonzero(seen.sides != _HELD_OUT))
        self._compare_lines(seen)
        self._compare_texts(seen)
        self._compare_wording(seen)

    def leaks(self) -> list[Leak]:
        """What was found, once everything has been seen."""
        owners = self._lines.owners
        is_known = (self._seen_by & _EARLIER[self._sides][owners]) != 0
        known = np.bincount(owners[is_known], minlength=len(self._ids))
        shares = known / np.maximum(1, self._n_new)
        return [
            Leak(
                self._ids[number], self._sources[number], SPLITS[self._sides[number]],
                reason, nearest, round(similarity, 3),
            )
            for number in range(len(self._ids))
            for reason, nearest, similarity in self._verdicts(number, float(shares[number]))
        ]  # fmt: skip

    def _compare_lines(self, seen: Worded) -> None:
        document = np.repeat(np.arange(len(seen)), np.diff(seen.starts))
        at, first, last = self._lines.find(seen.lines)
        document = document[at]
        rare = last - first <= _LINE_SHARED_BY
        document_of, owner = self._pairs(seen, document[rare], first[rare], last[rare], self._lines)
        pairs, counts = np.unique(document_of * len(self._ids) + owner, return_counts=True)
        document_of, owner = np.divmod(pairs, max(1, len(self._ids)))
        self._most_lines.note(owner, counts, document_of, seen.ids)
        for side in (_TRAIN, _VALIDATION):
            bit = _BIT[side]
            unseen = (seen.sides[document] == side) & ((self._seen_by[first] & bit) == 0)
            # Of a line that several of these documents hold, the first is its source.
            order = np.lexsort((document[unseen], first[unseen]))
            chosen = np.flatnonzero(unseen)[order]
            chosen = chosen[_is_first(first[chosen])]
            self._seen_by[spread(first[chosen], last[chosen])] |= bit
            # Whatever has a known line has a source of one, be the line ever so common.
            document_of, owner = self._pairs(
                seen, document[chosen], first[chosen], last[chosen], self._lines
            )
            self._most_lines.note(owner, np.ones(len(owner)), document_of, seen.ids)

    def _compare_texts(self, seen: Worded) -> None:
        document, owner = self._pairs(seen, *self._texts.find(seen.whole), self._texts)
        self._copies.note(owner, np.ones(len(owner)), document, seen.ids)

    def _compare_wording(self, seen: Worded) -> None:
        worded = np.flatnonzero(seen.has_words)
        at, first, last = self._bands.find(seen.bands[worded].ravel())
        document = worded[at // seen.bands.shape[1]]
        order = np.argsort(document, kind="stable")
        document, first, last = document[order], first[order], last[order]
        for some in slices(last - first, _PAIRS_AT_ONCE):
            pairs = self._pairs(seen, document[some], first[some], last[some], self._bands)
            number = np.unique(pairs[0] * len(self._ids) + pairs[1])
            for begin in range(0, len(number), _SIGNATURES_AT_ONCE):
                document_of, owner = np.divmod(
                    number[begin : begin + _SIGNATURES_AT_ONCE], len(self._ids)
                )
                same = self._signatures[owner] == seen.signatures[document_of]
                likeness = (same.mean(axis=1) - _CHANCE) / (1 - _CHANCE)
                self._likeness.note(owner, likeness, document_of, seen.ids)

    def _pairs(
        self, seen: Worded, document: Places, first: Places, last: Places, postings: Postings
    ) -> tuple[_Numbers, _Numbers]:
        """Every document with every one held back after it that is in its stretch."""
        owner = postings.owners[spread(first, last)].astype(np.int64)
        document = np.repeat(document, last - first)
        is_after = (_EARLIER[self._sides[owner]] & _BIT[seen.sides[document]]) != 0
        return document[is_after], owner[is_after]

    def _verdicts(self, number: int, share: float) -> Iterator[tuple[Any, str, float]]:
        """The first measure that gives the document away, if any."""
        named, likeness = self._named[number], float(self._likeness.values[number])
        if named is not None:
            yield (*named, 1.0)
        elif self._copies.values[number]:
            yield "exact_duplicate", self._copies.sources[number], 1.0
        elif share >= self._similarity:
            yield "known_lines", self._most_lines.sources[number], share
        elif likeness >= self._similarity:
            yield "near_duplicate", self._likeness.sources[number], likeness


@dataclass(frozen=True)
class _Best:
    """Of each held-back document the highest value so far, and which document it came from."""

    values: npt.NDArray[np.float64]
    sources: npt.NDArray[np.object_]

    def note(
        self, owner: _Numbers, values: _Numbers, document: _Numbers, ids: npt.NDArray[np.object_]
    ) -> None:
        """Take in pairs; of equal values the first document stays."""
        order = np.lexsort((document, -values, owner))
        order = order[_is_first(owner[order])]
        order = order[values[order] > self.values[owner[order]]]
        self.values[owner[order]] = values[order]
        self.sources[owner[order]] = ids[document[order]]


def _is_first(ascending: _Numbers) -> npt.NDArray[np.bool_]:
    """Which are the first of several that are the same."""
    is_first = np.ones(len(ascending), np.bool_)
    is_first[1:] = ascending[1:] != ascending[:-1]
    return is_first
