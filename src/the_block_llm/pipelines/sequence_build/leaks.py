"""Documents after a line that say what training already says: copies, moves, reverts.

Held-out documents are compared with everything that training and the choice of a checkpoint
see, validation documents with everything that is learned. Two measures, because neither sees
all: the share of a document's own lines that training holds verbatim, wherever they stand
(moves, cherry-picks, reverts), and the likeness of its wording by MinHash (copies that were
touched up). What is found leaves the later side; training stays as it is.
"""

import re
from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from the_block_llm.pipelines.sequence_build.drafts import Draft
from the_block_llm.pipelines.sequence_build.history import History
from the_block_llm.pipelines.sequence_build.own_words import Wording, wording
from the_block_llm.pipelines.sequence_build.postings import Numbers, Postings, spread
from the_block_llm.schemas import Split

LeakReason = Literal["revert", "cherry_pick", "exact_duplicate", "known_lines", "near_duplicate"]

_PERMUTATIONS: Final = 256  # the estimate is within 0.03 of the truth, two times in three
_BANDS: Final = 64  # candidates from a likeness of about 0.35; the estimate then decides
_LINE_SHARED_BY: Final = 64  # a line of more held-back documents says little of its source
_LATER: Final[dict[Split, tuple[Split, ...]]] = {
    "train": ("validation", "held_out"),
    "validation": ("held_out",),
    "held_out": (),
}
_SIDE: Final[dict[Split, int]] = {"train": 1, "validation": 2}
_EARLIER_SIDES: Final[dict[Split, int]] = {"validation": 1, "held_out": 1 | 2}
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_PICKED: Final = re.compile(r"cherry[- ]picked from commit ([0-9a-f]{7,40})")


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

    def __init__(self, held_back: Iterable[Draft], history: History, similarity: float) -> None:
        """Take in the documents of validation and held-out.

        Args:
            held_back: Of each, 13 bytes a line are kept and 2 kB for its wording.
            history: Tells what commits say of each other.
            similarity: From which share of known lines, or likeness, a document goes.
        """
        self._similarity = similarity
        self._ids: list[str] = []
        self._sources: list[str] = []
        self._splits: list[Split] = []
        self._named: dict[int, tuple[LeakReason, str, float]] = {}
        self._lines, self._texts, self._bands = Postings(), Postings(), Postings()
        self._n_lines = array("q")
        signatures = array("I")
        self._worded: list[int] = []  # documents that have a signature, in its rows' order
        for draft in held_back:
            self._watch(draft, _named_source(draft, history), signatures)
        for postings in (self._lines, self._texts, self._bands):
            postings.close()
        n_documents = len(self._ids)
        self._signatures = np.frombuffer(signatures, np.uint32).reshape(-1, _PERMUTATIONS)
        self._row_of = np.full(n_documents, -1, np.int64)
        self._row_of[self._worded] = np.arange(len(self._worded))
        self._is_after: dict[Split, npt.NDArray[np.bool_]] = {
            split: np.array([own in later for own in self._splits], np.bool_)
            for split, later in _LATER.items()
        }
        # Of each line of each document, by which sides it was seen.
        self._seen_by = np.zeros(len(self._lines.owners), np.uint8)
        self._most_lines = np.zeros(n_documents, np.int64)
        self._most_lines_from = [""] * n_documents
        self._copy_of: dict[int, str] = {}
        self._likeness = np.zeros(n_documents)
        self._likest = [""] * n_documents

    def see(self, draft: Draft, seen: Wording) -> None:
        """Compare a document of training or validation with what is held back after it."""
        if not _LATER[draft.split]:
            return
        is_after = self._is_after[draft.split]
        self._compare_lines(seen.lines, draft.document_id, _SIDE[draft.split], is_after)
        for number in self._owners_of(self._texts, [hash((draft.kind, seen.whole))], is_after):
            self._copy_of[int(number)] = draft.document_id
        if seen.shingles:
            self._compare_wording(_signature(seen.shingles), draft.document_id, is_after)

    def leaks(self) -> list[Leak]:
        """What was found, once everything has been seen."""
        sides = np.array([_EARLIER_SIDES[split] for split in self._splits], np.uint8)
        owners = self._lines.owners
        known = np.bincount(
            owners[(self._seen_by & sides[owners]) != 0], minlength=len(self._ids)
        ) / np.maximum(1, np.frombuffer(self._n_lines, np.int64))
        return [
            Leak(document_id, source, split, reason, nearest, round(similarity, 3))
            for number, (document_id, source, split) in enumerate(
                zip(self._ids, self._sources, self._splits, strict=True)
            )
            for reason, nearest, similarity in self._verdicts(number, float(known[number]))
        ]

    def _watch(
        self,
        draft: Draft,
        named: tuple[LeakReason, str, float] | None,
        signatures: "array[int]",
    ) -> None:
        number = len(self._ids)
        own = wording(draft)
        self._ids.append(draft.document_id)
        self._sources.append(draft.source)
        self._splits.append(draft.split)
        self._lines.add(number, own.new_lines)
        self._n_lines.append(len(own.new_lines))
        if named is not None:
            self._named[number] = named
        if own.shingles:
            signature = _signature(own.shingles)
            self._texts.add(number, [hash((draft.kind, own.whole))])
            self._bands.add(number, _band_keys(signature).tolist())
            self._worded.append(number)
            signatures.frombytes(signature.tobytes())

    def _compare_lines(
        self,
        lines: Collection[int],
        seen_id: str,
        side: int,
        is_after: npt.NDArray[np.bool_],
    ) -> None:
        first, last = self._lines.find(np.fromiter(lines, np.int64, len(lines)))
        unseen = (self._seen_by[first] & side) == 0
        places = spread(first[unseen], last[unseen])
        self._seen_by[places] |= np.uint8(side)
        # Whatever has a known line has a source of one, be the line ever so common.
        numbers = self._lines.owners[places]
        numbers = numbers[is_after[numbers] & (self._most_lines[numbers] == 0)]
        self._note_lines(np.unique(numbers), np.int64(1), seen_id)
        rare = last - first <= _LINE_SHARED_BY
        numbers = self._lines.owners[spread(first[rare], last[rare])]
        numbers, counts = np.unique(numbers[is_after[numbers]], return_counts=True)
        more = counts > self._most_lines[numbers]
        self._note_lines(numbers[more], counts[more], seen_id)

    def _note_lines(
        self, numbers: Numbers, counts: npt.NDArray[np.int64] | np.int64, seen_id: str
    ) -> None:
        self._most_lines[numbers] = counts
        for number in numbers.tolist():
            self._most_lines_from[number] = seen_id

    def _compare_wording(
        self, signature: npt.NDArray[np.uint32], seen_id: str, is_after: npt.NDArray[np.bool_]
    ) -> None:
        numbers = self._owners_of(self._bands, _band_keys(signature), is_after)
        likeness = (self._signatures[self._row_of[numbers]] == signature).mean(axis=1)
        more = likeness > self._likeness[numbers]
        self._likeness[numbers[more]] = likeness[more]
        for number in numbers[more].tolist():
            self._likest[number] = seen_id

    @staticmethod
    def _owners_of(
        postings: Postings, keys: npt.ArrayLike, is_after: npt.NDArray[np.bool_]
    ) -> Numbers:
        numbers = np.unique(postings.owners[spread(*postings.find(np.asarray(keys, np.int64)))])
        return numbers[is_after[numbers]]

    def _verdicts(self, number: int, share: float) -> list[tuple[LeakReason, str, float]]:
        """The first measure that gives the document away, if any."""
        if number in self._named:
            return [self._named[number]]
        if number in self._copy_of:
            return [("exact_duplicate", self._copy_of[number], 1.0)]
        if share >= self._similarity:
            return [("known_lines", self._most_lines_from[number], share)]
        likeness = float(self._likeness[number])
        if likeness >= self._similarity:
            return [("near_duplicate", self._likest[number], likeness)]
        return []


def _named_source(draft: Draft, history: History) -> tuple[LeakReason, str, float] | None:
    """The earlier commit that a commit says it undoes or repeats."""
    commit = history.commits.get(draft.source)
    if commit is None:
        return None
    earlier: Sequence[Split] = ("train", "validation") if draft.split == "held_out" else ("train",)
    if commit.reverts and history.split_of.get(commit.reverts) in earlier:
        return "revert", commit.reverts, 1.0
    for match in _PICKED.finditer(commit.body):
        for sha, split in history.split_of.items():
            if split in earlier and sha.startswith(match[1]):
                return "cherry_pick", sha, 1.0
    return None


def _signature(shingles: Sequence[str]) -> npt.NDArray[np.uint32]:
    """The least hash under each permutation, shape ``(permutations,)``."""
    minhash = RMinHash(num_perm=_PERMUTATIONS, seed=1)
    minhash.update(shingles)
    return np.array(minhash.digest(), np.uint32)


def _band_keys(signature: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """A hash of each band, shape ``(bands,)``; no two bands share one but by chance."""
    halves = signature.view(np.uint64).reshape(_BANDS, -1)
    keys = np.arange(1, _BANDS + 1, dtype=np.uint64)
    for column in halves.T:
        keys = (keys ^ column) * _MIX
        keys ^= keys >> np.uint64(29)
    return keys.view(np.int64)
