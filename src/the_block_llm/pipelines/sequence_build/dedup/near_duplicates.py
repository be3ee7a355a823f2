"""Detect near-duplicates and other leaks: evaluation documents that repeat training text.

Held-out documents are compared with training and validation, validation documents with training.
Two measures are used, since each misses cases that the other finds: the fraction of a document's
new lines that earlier splits contain verbatim, in whatever document (moves, cherry-picks,
reverts), and the Jaccard similarity of word shingles, estimated by MinHash with LSH candidates
(edited copies). A leak is removed from the later split; training is not changed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from the_block_llm.memory import trim_heap
from the_block_llm.pipelines.sequence_build.dedup.inverted_index import (
    InvertedIndex,
    Positions,
    batch_ranges,
    expand_ranges,
)
from the_block_llm.pipelines.sequence_build.dedup.minhash import DocumentSignatures
from the_block_llm.schemas import SPLITS, Split

LeakReason = Literal["revert", "cherry_pick", "exact_duplicate", "known_lines", "near_duplicate"]

_MAX_LINE_DOCUMENTS: Final = 64  # a line of more evaluation documents hardly identifies its source
_PAIRS_PER_BATCH: Final = 2_000_000
_SIGNATURE_PAIRS_PER_BATCH: Final = 16_384  # 8 MB
_BYTE_COLLISION: Final = 1 / 256  # probability that two signature bytes agree by chance
_TRAIN, _VALIDATION, _HELD_OUT = range(3)
_SPLIT_BIT: Final = np.array([1 << _TRAIN, 1 << _VALIDATION, 0], np.uint8)
# For each split the bits of the splits that come before it.
_EARLIER_BITS: Final = np.array([0, 1 << _TRAIN, 1 << _TRAIN | 1 << _VALIDATION], np.uint8)

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Leak:
    """A removed document, and the earlier one that it repeats."""

    document_id: str
    source: str
    """Path of the file it was about, or sha of the commit."""
    split: Split
    reason: LeakReason
    nearest: str
    """Id of the most similar earlier document, or sha of the declared commit."""
    similarity: float


class LeakCheck:
    """Streams documents against an index of evaluation documents."""

    def __init__(self, evaluation: Iterable[DocumentSignatures], similarity: float) -> None:
        """Index the evaluation documents.

        Args:
            evaluation: Documents of validation and held_out. Each takes 13 bytes a line, and
                some 900 for its signature and id.
            similarity: Fraction of known lines, or estimated Jaccard similarity, from which a
                document is a leak.
        """
        self._similarity = similarity
        documents = DocumentSignatures.concatenate(
            [batch.without_removed_lines() for batch in evaluation]
        )
        trim_heap()
        self._ids, self._sources = documents.ids, documents.sources
        self._declared = documents.declared
        self._splits, self._n_lines = documents.splits, documents.n_new_lines
        self._minhashes = documents.minhashes
        n_documents = len(documents)
        numbers = np.arange(n_documents, dtype=np.int32)
        self._line_index = InvertedIndex(
            documents.line_hashes, np.repeat(numbers, documents.n_new_lines)
        )
        with_text = np.flatnonzero(documents.has_shingles)
        self._text_index = InvertedIndex(documents.text_hashes[with_text], numbers[with_text])
        band_hashes = documents.band_hashes[with_text]
        # Indexing the bands is the peak of memory use.
        del documents
        trim_heap()
        self._band_index = InvertedIndex(
            band_hashes.ravel(), np.repeat(numbers[with_text], band_hashes.shape[1])
        )
        # For each entry of the line index the bits of the splits that contain the line.
        self._line_seen_in = np.zeros(len(self._line_index.documents), np.uint8)
        self._line_matches, self._minhash_matches, self._text_matches = (
            _BestMatches(np.zeros(n_documents), np.full(n_documents, "", object)) for _ in range(3)
        )

    def scan(self, batch: DocumentSignatures) -> None:
        """Compare documents with the evaluation documents of later splits."""
        batch = batch.take(np.flatnonzero(batch.splits != _HELD_OUT))
        self._match_lines(batch)
        self._match_texts(batch)
        self._match_minhashes(batch)

    def leaks(self) -> list[Leak]:
        """Return the leaks, once all documents were scanned."""
        evaluations = self._line_index.documents
        is_known = (self._line_seen_in & _EARLIER_BITS[self._splits][evaluations]) != 0
        n_known = np.bincount(evaluations[is_known], minlength=len(self._ids))
        known_fractions = n_known / np.maximum(1, self._n_lines)
        return [
            Leak(
                self._ids[number], self._sources[number], SPLITS[self._splits[number]],
                reason, nearest, round(similarity, 3),
            )
            for number in range(len(self._ids))
            for reason, nearest, similarity in self._leak_reason(
                number, float(known_fractions[number])
            )
        ]  # fmt: skip

    def _match_lines(self, batch: DocumentSignatures) -> None:
        document = np.repeat(np.arange(len(batch)), np.diff(batch.line_offsets))
        found, first, last = self._line_index.find(batch.line_hashes)
        document = document[found]
        rare = last - first <= _MAX_LINE_DOCUMENTS
        matched, evaluation_index = self._pairs(
            batch, document[rare], first[rare], last[rare], self._line_index
        )
        pairs, counts = np.unique(matched * len(self._ids) + evaluation_index, return_counts=True)
        matched, evaluation_index = np.divmod(pairs, max(1, len(self._ids)))
        self._line_matches.update(evaluation_index, counts, matched, batch.ids)
        for split in (_TRAIN, _VALIDATION):
            bit = _SPLIT_BIT[split]
            is_new = (batch.splits[document] == split) & ((self._line_seen_in[first] & bit) == 0)
            # Of several documents of the batch with the same line, the first is its source.
            order = np.lexsort((document[is_new], first[is_new]))
            chosen = np.flatnonzero(is_new)[order]
            chosen = chosen[_is_run_start(first[chosen])]
            self._line_seen_in[expand_ranges(first[chosen], last[chosen])] |= bit
            # A document with a known line gets a source, however common the line.
            matched, evaluation_index = self._pairs(
                batch, document[chosen], first[chosen], last[chosen], self._line_index
            )
            self._line_matches.update(
                evaluation_index, np.ones(len(evaluation_index)), matched, batch.ids
            )

    def _match_texts(self, batch: DocumentSignatures) -> None:
        found = self._text_index.find(batch.text_hashes)
        document, evaluation_index = self._pairs(batch, *found, self._text_index)
        self._text_matches.update(
            evaluation_index, np.ones(len(evaluation_index)), document, batch.ids
        )

    def _match_minhashes(self, batch: DocumentSignatures) -> None:
        with_text = np.flatnonzero(batch.has_shingles)
        found, first, last = self._band_index.find(batch.band_hashes[with_text].ravel())
        document = with_text[found // batch.band_hashes.shape[1]]
        order = np.argsort(document, kind="stable")
        document, first, last = document[order], first[order], last[order]
        for part in batch_ranges(last - first, _PAIRS_PER_BATCH):
            candidates = self._pairs(
                batch, document[part], first[part], last[part], self._band_index
            )
            pairs = np.unique(candidates[0] * len(self._ids) + candidates[1])
            for start in range(0, len(pairs), _SIGNATURE_PAIRS_PER_BATCH):
                candidate, evaluation_index = np.divmod(
                    pairs[start : start + _SIGNATURE_PAIRS_PER_BATCH], len(self._ids)
                )
                is_equal = self._minhashes[evaluation_index] == batch.minhashes[candidate]
                jaccard = (is_equal.mean(axis=1) - _BYTE_COLLISION) / (1 - _BYTE_COLLISION)
                self._minhash_matches.update(evaluation_index, jaccard, candidate, batch.ids)

    def _pairs(
        self,
        batch: DocumentSignatures,
        document: Positions,
        first: Positions,
        last: Positions,
        index: InvertedIndex,
    ) -> tuple[_Array, _Array]:
        """Pair each document with the later-split documents in its range of index entries."""
        evaluation_index = index.documents[expand_ranges(first, last)].astype(np.int64)
        document = np.repeat(document, last - first)
        is_later = (
            _EARLIER_BITS[self._splits[evaluation_index]] & _SPLIT_BIT[batch.splits[document]]
        ) != 0
        return document[is_later], evaluation_index[is_later]

    def _leak_reason(self, number: int, known_fraction: float) -> Iterator[tuple[Any, str, float]]:
        """Yield the first measure by which a document is a leak, if there is one."""
        declared, jaccard = self._declared[number], float(self._minhash_matches.values[number])
        if declared is not None:
            yield (*declared, 1.0)
        elif self._text_matches.values[number]:
            yield "exact_duplicate", self._text_matches.sources[number], 1.0
        elif known_fraction >= self._similarity:
            yield "known_lines", self._line_matches.sources[number], known_fraction
        elif jaccard >= self._similarity:
            yield "near_duplicate", self._minhash_matches.sources[number], jaccard


@dataclass(frozen=True)
class _BestMatches:
    """The highest value seen for each evaluation document, and the document it came from."""

    values: npt.NDArray[np.float64]
    sources: npt.NDArray[np.object_]

    def update(
        self,
        evaluation_index: _Array,
        values: _Array,
        document: _Array,
        ids: npt.NDArray[np.object_],
    ) -> None:
        """Add matches; of equal values the first document is kept."""
        order = np.lexsort((document, -values, evaluation_index))
        order = order[_is_run_start(evaluation_index[order])]
        order = order[values[order] > self.values[evaluation_index[order]]]
        self.values[evaluation_index[order]] = values[order]
        self.sources[evaluation_index[order]] = ids[document[order]]


def _is_run_start(ascending: _Array) -> npt.NDArray[np.bool_]:
    """Return whether each value differs from the one before it."""
    is_start = np.ones(len(ascending), np.bool_)
    is_start[1:] = ascending[1:] != ascending[:-1]
    return is_start
