"""A first look over all documents, before any is tokenised: which must not be used."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import pyarrow.compute as pc

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.errors import StaleDataError, TooLittleDataError
from the_block_llm.execution.jobs import Call
from the_block_llm.pipelines.sequence_build.dedup.exact_duplicates import said_again
from the_block_llm.pipelines.sequence_build.dedup.leak_check import Leak
from the_block_llm.pipelines.sequence_build.dedup.leak_scan import (
    Noted,
    batches,
    compare,
    stretches,
)
from the_block_llm.pipelines.sequence_build.document import Dropped, RenderedDocument
from the_block_llm.schemas import Split


@dataclass(frozen=True)
class Screening:
    """What was found; the JSON file ``screening`` holds the same."""

    leaks: tuple[Leak, ...]
    duplicates: dict[Split, dict[str, str]]
    """By side, documents that say what an earlier one of that side says, and which that is:
    nothing is learned twice, and a file that a fork holds too is not evaluated twice."""
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
            "duplicates": self.duplicates,
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
            duplicates = {split: dict(twice.items()) for split, twice in data["duplicates"].items()}
        except (TypeError, AttributeError) as error:
            raise StaleDataError(
                "Another version of this project looked for leaks. Run `kedro run "
                "--pipeline=sequence_build` again."
            ) from error
        return cls(leaks, duplicates, data["dropped"], data["validation_repeats"])


def screen(
    noted: Sequence[Noted],
    run: Callable[[Sequence[Call]], Iterable[Sequence[Leak]]],
    similarity: float,
    *,
    holds_out: bool,
) -> Screening:
    """Compare what all documents say.

    Args:
        noted: Of each group of repositories, in order.
        run: Does the comparing, here or elsewhere, and gives the results in order.
        similarity: See :class:`~the_block_llm.pipelines.sequence_build.dedup.leak_check.LeakCheck`.
        holds_out: Whether there is a side that is held out.

    Raises:
        TooLittleDataError: A side of the cut-off is left with nothing.
    """
    parts = [part for one in noted for part in one.parts]
    jobs: list[Call] = [(compare, (parts, *some, similarity)) for some in stretches(parts)]
    found = list(chain.from_iterable(run(jobs)))
    leaks = [*found, *_questions_about(found, parts)]
    left: Counter[str] = Counter()
    for batch in batches(parts, ["split"]):
        left.update(batch["split"].to_pylist())
    n_validation = sum(leak.split == "validation" for leak in leaks)
    repeats = left["validation"] == n_validation > 0
    if repeats:
        # The choice of a checkpoint by known text is poor, but no verdict rests on it.
        leaks = [leak for leak in leaks if leak.split != "validation"]
    left -= Counter(leak.split for leak in leaks)
    _require_every_side(left, len(leaks), holds_out=holds_out)
    return Screening(
        tuple(leaks),
        said_again(parts, frozenset(leak.document_id for leak in leaks)),
        dict(sorted(sum((one.dropped for one in noted), Counter()).items())),
        validation_repeats=repeats,
    )


def usable(
    drafts: Iterator[RenderedDocument | Dropped], screening: Screening
) -> Iterator[RenderedDocument]:
    """The documents that may be used."""
    refused = screening.refused
    return (draft for draft in _documents(drafts) if draft.document_id not in refused)


def _documents(drafts: Iterator[RenderedDocument | Dropped]) -> Iterator[RenderedDocument]:
    return (draft for draft in drafts if isinstance(draft, RenderedDocument))


def _questions_about(leaks: Sequence[Leak], parts: Sequence[StorageLocation]) -> Iterator[Leak]:
    """Questions about a commit that itself had to go."""
    found = {leak.document_id for leak in leaks}
    by_commit = {
        leak.document_id.removeprefix("commit/"): leak
        for leak in leaks
        if leak.document_id.startswith("commit/")
    }
    for batch in batches(parts, ["document_id", "kind", "split", "source"]) if by_commit else ():
        asked = pc.and_(pc.equal(batch["kind"], "chat"), pc.not_equal(batch["split"], "train"))
        for row in batch.filter(asked).to_pylist():
            leak = by_commit.get(row["source"])
            if leak is not None and row["document_id"] not in found:
                yield replace(leak, document_id=row["document_id"])


def _require_every_side(left: Counter[str], n_leaks: int, *, holds_out: bool) -> None:
    wanted = ["train", "validation", *(["held_out"] if holds_out else [])]
    empty = [side for side in wanted if left[side] <= 0]
    if empty:
        raise TooLittleDataError(
            f"Nothing is left for {' and '.join(empty)}: {left['train']} documents for training, "
            f"{left['validation']} for validation, {left['held_out']} held out, after {n_leaks} "
            "that repeat earlier ones were taken out. Commit more work, move "
            "sequence_build.cutoff, or raise sequence_build.leak_similarity."
        )
