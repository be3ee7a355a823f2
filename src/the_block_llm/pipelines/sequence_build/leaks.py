"""Documents after a line that say what training already says: copies, moves, reverts.

Held-out documents are compared with everything that training and the choice of a checkpoint
see, validation documents with everything that is learned. Two measures, because neither sees
all: the share of a document's own lines that training holds verbatim, wherever they stand
(moves, cherry-picks, reverts), and the likeness of its wording by MinHash (copies that were
touched up). What is found leaves the later side; training stays as it is.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from rensa import RMinHash, RMinHashLSH

from the_block_llm.pipelines.sequence_build.drafts import Draft
from the_block_llm.pipelines.sequence_build.history import History
from the_block_llm.pipelines.sequence_build.own_words import Wording, wording
from the_block_llm.schemas import Split

LeakReason = Literal["revert", "cherry_pick", "exact_duplicate", "known_lines", "near_duplicate"]

_PERMUTATIONS: Final = 256  # the estimate is within 0.03 of the truth, two times in three
_BANDS: Final = 64  # candidates from a likeness of about 0.35; the estimate then decides
_LINE_SHARED_BY: Final = 64  # a line of more held-back documents names no one source
_LATER: Final[dict[Split, tuple[Split, ...]]] = {
    "train": ("validation", "held_out"),
    "validation": ("held_out",),
    "held_out": (),
}
_PICKED: Final = re.compile(r"cherry[- ]picked from commit ([0-9a-f]{7,40})")


@dataclass(frozen=True)
class Leak:
    """A document that had to go, and what gave it away."""

    document_id: str
    split: Split
    reason: LeakReason
    nearest: str
    """Id of the training document, or sha, that says the same."""
    similarity: float


@dataclass
class _Watched:
    """A held-back document while training material passes by."""

    document_id: str
    split: Split
    new_lines: frozenset[int]
    minhash: RMinHash
    named: tuple[LeakReason, str, float] | None
    copy_of: str | None = None
    known_lines: set[int] = field(default_factory=set)
    most_lines_from: tuple[int, str] = (0, "")
    likest: tuple[float, str] = (0.0, "")


class LeakCheck:
    """Watches over held-back documents while everything else passes by."""

    def __init__(self, held_back: Iterable[Draft], history: History, similarity: float) -> None:
        """Take in the documents of validation and held-out.

        Args:
            held_back: They are kept as hashes, about as large as their text.
            history: Tells what commits say of each other.
            similarity: From which share of known lines, or likeness, a document goes.
        """
        self._similarity = similarity
        self._index = RMinHashLSH(threshold=similarity, num_perm=_PERMUTATIONS, num_bands=_BANDS)
        self._watched: list[_Watched] = []
        self._by_line: dict[int, list[int]] = defaultdict(list)
        self._by_text: dict[tuple[str, int], list[int]] = defaultdict(list)
        for draft in held_back:
            self._watch(draft, _named_source(draft, history))

    def see(self, draft: Draft, seen: Wording) -> None:
        """Compare a document of training or validation with what is held back after it."""
        later = _LATER[draft.split]
        matches: Counter[int] = Counter()
        for line in seen.lines:
            for number in self._by_line.get(line, ()):
                if self._watched[number].split in later:
                    self._watched[number].known_lines.add(line)
                    matches[number] += 1
        for number, count in matches.items():
            watched = self._watched[number]
            if count > watched.most_lines_from[0]:
                watched.most_lines_from = (count, draft.document_id)
        for number in self._by_text.get((draft.kind, seen.whole), ()):
            if self._watched[number].split in later:
                self._watched[number].copy_of = draft.document_id
        if seen.shingles:
            self._compare_wording(_minhash(seen.shingles), draft.document_id, later)

    def leaks(self) -> list[Leak]:
        """What was found, once everything has been seen."""
        return [
            Leak(watched.document_id, watched.split, reason, nearest, round(similarity, 3))
            for watched in self._watched
            for reason, nearest, similarity in self._verdicts(watched)
        ]

    def _watch(self, draft: Draft, named: tuple[LeakReason, str, float] | None) -> None:
        number = len(self._watched)
        own = wording(draft)
        minhash = _minhash(own.shingles)
        self._watched.append(
            _Watched(draft.document_id, draft.split, own.new_lines, minhash, named)
        )
        if own.shingles:
            self._by_text[draft.kind, own.whole].append(number)
            self._index.insert(number, minhash)
        for line in own.new_lines:
            if len(self._by_line[line]) < _LINE_SHARED_BY:
                self._by_line[line].append(number)

    def _compare_wording(self, minhash: RMinHash, seen_id: str, later: Sequence[Split]) -> None:
        for number in self._index.query(minhash):
            watched = self._watched[number]
            if watched.split in later:
                watched.likest = max(watched.likest, (watched.minhash.jaccard(minhash), seen_id))

    def _verdicts(self, watched: _Watched) -> list[tuple[LeakReason, str, float]]:
        """The first measure that gives the document away, if any."""
        if watched.named is not None:
            return [watched.named]
        if watched.copy_of is not None:
            return [("exact_duplicate", watched.copy_of, 1.0)]
        share = len(watched.known_lines) / max(1, len(watched.new_lines))
        if share >= self._similarity:
            return [("known_lines", watched.most_lines_from[1], share)]
        likeness, nearest = watched.likest
        return [("near_duplicate", nearest, likeness)] if likeness >= self._similarity else []


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


def _minhash(shingles: Sequence[str]) -> RMinHash:
    minhash = RMinHash(num_perm=_PERMUTATIONS, seed=1)
    minhash.update(shingles)
    return minhash
