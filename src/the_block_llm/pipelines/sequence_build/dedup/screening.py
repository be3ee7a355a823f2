"""Screen all documents before tokenization: which ones must be excluded as leaks or duplicates."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import pyarrow.compute as pc

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.errors import TooLittleDataError, stored_data
from the_block_llm.execution.jobs import Call
from the_block_llm.pipelines.sequence_build.dedup.exact_duplicates import find_exact_duplicates
from the_block_llm.pipelines.sequence_build.dedup.leak_scan import (
    SignatureFiles,
    read_batches,
    scan_for_leaks,
    scan_ranges,
)
from the_block_llm.pipelines.sequence_build.dedup.near_duplicates import Leak
from the_block_llm.pipelines.sequence_build.document import Dropped, RenderedDocument
from the_block_llm.schemas import Split


@dataclass(frozen=True)
class Screening:
    """Result of the screening; the JSON file ``screening`` has the same keys."""

    leaks: tuple[Leak, ...]
    duplicates: dict[Split, dict[str, str]]
    """For each split the ids of exact duplicates, with the id of the first document that has the
    text: nothing is trained on twice, and a file that a fork shares is not evaluated twice."""
    dropped: dict[str, int]
    """Number of sources that no document was made of, by reason."""
    validation_repeats: bool
    """All of validation repeats training text, and is kept so that validation is not empty."""

    @property
    def excluded_ids(self) -> frozenset[str]:
        """Ids of leaks and duplicates."""
        duplicates = chain.from_iterable(self.duplicates.values())
        return frozenset((*(leak.document_id for leak in self.leaks), *duplicates))

    def to_json(self) -> dict[str, Any]:
        return {
            "leaks": [asdict(leak) for leak in self.leaks],
            "duplicates": self.duplicates,
            "dropped": self.dropped,
            "validation_repeats": self.validation_repeats,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Screening":
        """Read the JSON form.

        Raises:
            StaleDataError: Another version of the project wrote it.
        """
        with stored_data(
            "The dataset screening", "Run `kedro run --pipeline=sequence_build` again."
        ):
            return cls(
                tuple(Leak(**leak) for leak in data["leaks"]),
                {split: dict(ids.items()) for split, ids in data["duplicates"].items()},
                dict(data["dropped"].items()),
                bool(data["validation_repeats"]),
            )


def screen(
    signatures: Sequence[SignatureFiles],
    run_jobs: Callable[[Sequence[Call]], Iterable[Sequence[Leak]]],
    similarity: float,
    *,
    holds_out: bool,
) -> Screening:
    """Find leaks and exact duplicates among all documents.

    Args:
        signatures: Of each batch of repositories, in order.
        run_jobs: Runs the scans, here or on a cluster, and returns their results in order.
        similarity: See ``LeakCheck``.
        holds_out: Whether there is a held_out split.

    Raises:
        TooLittleDataError: A split would be empty.
    """
    parts = [part for files in signatures for part in files.parts]
    jobs: list[Call] = [
        (scan_for_leaks, (parts, first, last, similarity)) for first, last in scan_ranges(parts)
    ]
    found = list(chain.from_iterable(run_jobs(jobs)))
    leaks = [*found, *_chats_about_leaked_commits(found, parts)]
    remaining: Counter[str] = Counter()
    for batch in read_batches(parts, ["split"]):
        remaining.update(batch["split"].to_pylist())
    n_validation = sum(leak.split == "validation" for leak in leaks)
    validation_repeats = remaining["validation"] == n_validation > 0
    if validation_repeats:
        # Known text is a poor criterion for the best checkpoint, but no result of the evaluation
        # depends on it.
        leaks = [leak for leak in leaks if leak.split != "validation"]
    remaining -= Counter(leak.split for leak in leaks)
    _require_nonempty_splits(remaining, len(leaks), holds_out=holds_out)
    return Screening(
        tuple(leaks),
        find_exact_duplicates(parts, frozenset(leak.document_id for leak in leaks)),
        dict(sorted(sum((files.dropped for files in signatures), Counter()).items())),
        validation_repeats=validation_repeats,
    )


def select_usable(
    docs: Iterator[RenderedDocument | Dropped], screening: Screening
) -> Iterator[RenderedDocument]:
    """Yield the documents that the screening did not exclude."""
    excluded = screening.excluded_ids
    return (
        doc for doc in docs if isinstance(doc, RenderedDocument) and doc.document_id not in excluded
    )


def _chats_about_leaked_commits(
    leaks: Sequence[Leak], parts: Sequence[StorageLocation]
) -> Iterator[Leak]:
    """Yield the evaluation chats about commits that are leaks, as leaks of the same kind."""
    leaked_ids = {leak.document_id for leak in leaks}
    by_commit = {
        leak.document_id.removeprefix("commit/"): leak
        for leak in leaks
        if leak.document_id.startswith("commit/")
    }
    columns = ["document_id", "kind", "split", "source"]
    for batch in read_batches(parts, columns) if by_commit else ():
        is_chat = pc.and_(pc.equal(batch["kind"], "chat"), pc.not_equal(batch["split"], "train"))
        for row in batch.filter(is_chat).to_pylist():
            leak = by_commit.get(row["source"])
            if leak is not None and row["document_id"] not in leaked_ids:
                yield replace(leak, document_id=row["document_id"])


def _require_nonempty_splits(remaining: Counter[str], n_leaks: int, *, holds_out: bool) -> None:
    required = ["train", "validation", *(["held_out"] if holds_out else [])]
    empty = [split for split in required if remaining[split] <= 0]
    if empty:
        raise TooLittleDataError(
            f"Empty split: {' and '.join(empty)}. After removing {n_leaks} documents that repeat "
            f"earlier ones, {remaining['train']} are left for training, "
            f"{remaining['validation']} for validation and {remaining['held_out']} held out. "
            "Commit more work, move sequence_build.cutoff, or raise "
            "sequence_build.leak_similarity."
        )
