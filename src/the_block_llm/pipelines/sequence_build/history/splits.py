"""On which side of the cut-off every commit of several repositories is, some 50 bytes each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from the_block_llm.datasets.cutoff import Cutoff
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.pipelines.sequence_build.history.commits import (
    choose_validation,
    require_enough,
)
from the_block_llm.schemas import SPLITS, Split

_COLUMNS: Final = ["repo", "sha", "committed_at", "is_merge", "insertions"]
_BATCH_ROWS: Final = 65_536


@dataclass(frozen=True)
class Sides:
    """Commits by sha; a commit that several repositories hold, as forks do, is one."""

    shas: npt.NDArray[np.bytes_]
    """Ascending, shape ``(commits,)``."""
    sides: npt.NDArray[np.uint8]
    """Of each its place in train, validation, held_out."""
    holders: npt.NDArray[np.int32]
    """Of each the number of the repository that holds it first."""

    def of(self, sha: str) -> Split | None:
        """The side of a commit; none where there is none of that name."""
        found = self.like(sha)
        return found[0][1] if found and found[0][0] == sha else None

    def like(self, start: str) -> list[tuple[str, Split]]:
        """Commits whose names begin so, with their sides."""
        at, found = int(np.searchsorted(self.shas, start.encode())), []
        while at < len(self.shas) and self.shas[at].startswith(start.encode()):
            found.append((self.shas[at].decode(), SPLITS[self.sides[at]]))
            at += 1
        return found

    def each(self, shas: Sequence[str]) -> list[tuple[Split, int]]:
        """The side of each of some commits, and the number of the first that holds it."""
        at = np.searchsorted(self.shas, np.array(shas, self.shas.dtype))
        return [(SPLITS[self.sides[n]], int(self.holders[n])) for n in at.tolist()]

    def count(self, split: Split) -> int:
        return int(np.count_nonzero(self.sides == SPLITS.index(split)))


def read_sides(
    commits: ParquetTable, names: Sequence[str], cutoff: Cutoff, validation_fraction: float
) -> Sides:
    """Put every commit on its side.

    Args:
        commits: The table of all repositories.
        names: Of the repositories, in order.
        cutoff: One time divides them all.
        validation_fraction: See
            :func:`~the_block_llm.pipelines.sequence_build.history.commits.choose_validation`.

    Raises:
        TooLittleDataError: There are too few commits for three sides.
    """
    shas, numbers = [np.empty(0, np.bytes_)], [np.empty(0, np.int32)]
    rest: list[npt.NDArray[np.int64]] = [np.empty((3, 0), np.int64)]
    known = pa.array(names)
    for batch in commits.batches(_COLUMNS, _BATCH_ROWS):
        shas.append(np.array(batch["sha"].to_pylist(), np.bytes_))
        numbers.append(pc.index_in(batch["repo"], value_set=known).to_numpy(zero_copy_only=False))
        seconds = pc.divide(batch["committed_at"].cast(pa.int64()), _ticks(batch["committed_at"]))
        columns = (seconds, batch["is_merge"].cast(pa.int64()), batch["insertions"])
        rest.append(np.stack([column.to_numpy() for column in columns]))
    names_of, holder_of = np.concatenate(shas), np.concatenate(numbers).astype(np.int32)
    order = np.lexsort((holder_of, names_of))
    sorted_names = names_of[order]
    first = order[np.concatenate([[True], sorted_names[1:] != sorted_names[:-1]])[: len(order)]]
    times, is_merge, insertions = np.concatenate(rest, axis=1)[:, first]
    is_before = times <= int(cutoff.time.timestamp())
    require_enough(len(first), int(is_before.sum()), cutoff)
    sides = np.where(is_before, 0, 2).astype(np.uint8)
    before = np.flatnonzero(is_before)
    # Names are ascending already, so that a stable sort by time settles equal times by them.
    before = before[np.argsort(times[before], kind="stable")]
    chosen = choose_validation(insertions[before], is_merge[before] != 0, validation_fraction)
    sides[before[chosen]] = 1
    return Sides(names_of[first], sides, holder_of[first])


def _ticks(column: pa.Array) -> int:
    return {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}[column.type.unit]
