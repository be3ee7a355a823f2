"""A first look over all documents, before any is tokenised: which must not be used."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

from the_block_llm.errors import StaleDataError, TooLittleDataError
from the_block_llm.pipelines.sequence_build.drafts import Draft, Dropped
from the_block_llm.pipelines.sequence_build.history import History
from the_block_llm.pipelines.sequence_build.leaks import Leak, LeakCheck
from the_block_llm.pipelines.sequence_build.own_words import wording
from the_block_llm.schemas import Split

_Drafts = Callable[[], Iterator[Draft | Dropped]]


@dataclass(frozen=True)
class Screening:
    """What was found; the JSON file ``screening`` holds the same."""

    leaks: tuple[Leak, ...]
    duplicates: dict[Split, tuple[str, ...]]
    """By side, documents that say what an earlier one of that side says: nothing is learned
    twice, and a file that a fork holds too is not evaluated twice."""
    dropped: dict[str, int]
    """Sources that no document was made of, by reason."""
    validation_repeats: bool
    """All of validation is known from training; it was kept, or there would be none."""

    @property
    def refused(self) -> frozenset[str]:
        """Ids of documents that must not be used."""
        twice = chain.from_iterable(self.duplicates.values())
        return frozenset((*(leak.document_id for leak in self.leaks), *twice))

    def to_json(self) -> dict[str, Any]:
        return {
            "leaks": [asdict(leak) for leak in self.leaks],
            "duplicates": {split: list(ids) for split, ids in self.duplicates.items()},
            "dropped": self.dropped,
            "validation_repeats": self.validation_repeats,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Screening":
        """Read it back.

        Raises:
            StaleDataError: Another version of the project wrote it.
        """
        try:
            leaks = tuple(Leak(**leak) for leak in data["leaks"])
            duplicates = {split: tuple(ids) for split, ids in data["duplicates"].items()}
        except (TypeError, AttributeError) as error:
            raise StaleDataError(
                "Another version of this project looked for leaks. Run `kedro run "
                "--pipeline=sequence_build` again."
            ) from error
        return cls(leaks, duplicates, data["dropped"], data["validation_repeats"])


def screen(drafts: _Drafts, history: History, similarity: float) -> Screening:
    """Go over the documents twice: once to know what is held back, once to compare.

    Args:
        drafts: Renders everything anew at each call; nothing but hashes is kept.
        history: What commits say of each other.
        similarity: See :class:`~the_block_llm.pipelines.sequence_build.leaks.LeakCheck`.

    Raises:
        TooLittleDataError: A side of the cut-off is left with nothing.
    """
    held_back = (d for d in _documents(drafts()) if d.split != "train")
    check = LeakCheck(held_back, history, similarity)
    said: set[tuple[str, int]] = set()
    duplicates: dict[Split, list[str]] = {"train": [], "validation": [], "held_out": []}
    # Of what is held back it is known at the end only which document stays to be said again.
    texts_held_back: list[tuple[Split, str, tuple[str, int]]] = []
    dropped: Counter[str] = Counter()
    left: Counter[str] = Counter()
    held_back_chats: list[tuple[str, str, str]] = []
    for draft in drafts():
        if isinstance(draft, Dropped):
            dropped[draft.reason] += 1
            continue
        left[draft.split] += 1
        own = wording(draft)
        check.see(draft, own)
        key = (draft.kind, own.whole)
        if draft.split == "train":
            if key in said:
                duplicates["train"].append(draft.document_id)
            said.add(key)
            continue
        texts_held_back.append((draft.split, draft.document_id, key))
        if draft.kind == "chat":
            held_back_chats.append((draft.document_id, draft.split, draft.source))
    leaks = _with_questions(check.leaks(), held_back_chats)
    n_validation = sum(leak.split == "validation" for leak in leaks)
    repeats = left["validation"] == n_validation > 0
    if repeats:
        # The choice of a checkpoint by known text is poor, but no verdict rests on it.
        leaks = [leak for leak in leaks if leak.split != "validation"]
    left -= Counter(leak.split for leak in leaks)
    for split, document_id in _said_again(texts_held_back, {leak.document_id for leak in leaks}):
        duplicates[split].append(document_id)
    _require_every_side(left, history, len(leaks))
    return Screening(
        tuple(leaks),
        {split: tuple(ids) for split, ids in duplicates.items()},
        dict(sorted(dropped.items())),
        validation_repeats=repeats,
    )


def usable(drafts: Iterator[Draft | Dropped], screening: Screening) -> Iterator[Draft]:
    """The documents that may be used."""
    refused = screening.refused
    return (draft for draft in _documents(drafts) if draft.document_id not in refused)


def _documents(drafts: Iterator[Draft | Dropped]) -> Iterator[Draft]:
    return (draft for draft in drafts if isinstance(draft, Draft))


def _said_again(
    texts: Sequence[tuple[Split, str, tuple[str, int]]], leaks: Set[str]
) -> Iterator[tuple[Split, str]]:
    """Documents of a side whose text an earlier one of that side has, which is no leak itself."""
    said: set[tuple[Split, tuple[str, int]]] = set()
    for split, document_id, text in texts:
        if document_id in leaks:
            continue
        if (split, text) in said:
            yield split, document_id
        said.add((split, text))


def _with_questions(leaks: list[Leak], chats: list[tuple[str, str, str]]) -> list[Leak]:
    """Add the questions about a commit that itself had to go."""
    found = {leak.document_id for leak in leaks}
    by_commit = {
        leak.document_id.removeprefix("commit/"): leak
        for leak in leaks
        if leak.document_id.startswith("commit/")
    }
    about = [
        replace(leak, document_id=chat_id)
        for chat_id, _, source in chats
        if chat_id not in found and (leak := by_commit.get(source)) is not None
    ]
    return [*leaks, *about]


def _require_every_side(left: Counter[str], history: History, n_leaks: int) -> None:
    wanted = ["train", "validation", *(["held_out"] if history.cutoff.holds_out else [])]
    empty = [side for side in wanted if left[side] <= 0]
    if empty:
        raise TooLittleDataError(
            f"Nothing is left for {' and '.join(empty)}: {left['train']} documents for training, "
            f"{left['validation']} for validation, {left['held_out']} held out, after {n_leaks} "
            "that repeat earlier ones were taken out. Commit more work, move "
            "sequence_build.cutoff, or raise sequence_build.leak_similarity."
        )
