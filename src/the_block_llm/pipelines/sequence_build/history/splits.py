"""Splits of the commits of several repositories, about 50 bytes per commit."""

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
    require_enough_commits,
    select_validation_commits,
)
from the_block_llm.schemas import SPLITS, Split

_COLUMNS: Final = ["repo", "sha", "committed_at", "is_merge", "insertions", "files_changed"]
_BATCH_ROWS: Final = 65_536


@dataclass(frozen=True)
class CommitSplits:
    """Commits sorted by sha; a commit that several repositories (forks) share appears once."""

    shas: npt.NDArray[np.bytes_]
    """Ascending, shape ``(commits,)``."""
    splits: npt.NDArray[np.uint8]
    """Index of each commit's split in ``SPLITS``, shape ``(commits,)``."""
    first_repositories: npt.NDArray[np.int32]
    """Index of the first repository that contains each commit, shape ``(commits,)``."""

    def get(self, sha: str) -> Split | None:
        """Return the split of a commit, or ``None`` if it is unknown."""
        found = self.find_by_prefix(sha)
        return found[0][1] if found and found[0][0] == sha else None

    def find_by_prefix(self, sha_prefix: str) -> list[tuple[str, Split]]:
        """Return the commits whose sha starts with ``sha_prefix``, with their splits."""
        prefix = sha_prefix.encode()
        index, found = int(np.searchsorted(self.shas, prefix)), []
        while index < len(self.shas) and self.shas[index].startswith(prefix):
            found.append((self.shas[index].decode(), SPLITS[self.splits[index]]))
            index += 1
        return found

    def lookup(self, shas: Sequence[str]) -> list[tuple[Split, int]]:
        """Return the split and the first repository of each of several known commits."""
        indices = np.searchsorted(self.shas, np.array(shas, self.shas.dtype))
        return [(SPLITS[self.splits[i]], int(self.first_repositories[i])) for i in indices.tolist()]

    def count(self, split: Split) -> int:
        return int(np.count_nonzero(self.splits == SPLITS.index(split)))


def assign_splits(
    commits: ParquetTable, names: Sequence[str], cutoff: Cutoff, validation_fraction: float
) -> CommitSplits:
    """Assign the commits of all repositories to splits.

    Args:
        commits: The table ``commits`` of all repositories.
        names: Names of the repositories, in order.
        cutoff: Shared by all repositories.
        validation_fraction: See
            :func:`~the_block_llm.pipelines.sequence_build.history.commits.select_validation_commits`.

    Raises:
        TooLittleDataError: There are too few commits for three splits.
    """
    sha_batches, repository_batches = [np.empty(0, np.bytes_)], [np.empty(0, np.int32)]
    value_batches: list[npt.NDArray[np.int64]] = [np.empty((4, 0), np.int64)]
    known = pa.array(names)
    for batch in commits.batches(_COLUMNS, _BATCH_ROWS):
        sha_batches.append(np.array(batch["sha"].to_pylist(), np.bytes_))
        repository_batches.append(
            pc.index_in(batch["repo"], value_set=known).to_numpy(zero_copy_only=False)
        )
        seconds = pc.divide(
            batch["committed_at"].cast(pa.int64()), _ticks_per_second(batch["committed_at"])
        )
        columns = (
            seconds,
            batch["is_merge"].cast(pa.int64()),
            batch["insertions"],
            batch["files_changed"],
        )
        value_batches.append(np.stack([column.to_numpy() for column in columns]))
    shas = np.concatenate(sha_batches)
    repositories = np.concatenate(repository_batches).astype(np.int32)
    order = np.lexsort((repositories, shas))
    sorted_shas = shas[order]
    first = order[np.concatenate([[True], sorted_shas[1:] != sorted_shas[:-1]])[: len(order)]]
    times, is_merge, *sizes = np.concatenate(value_batches, axis=1)[:, first]
    is_before = times <= int(cutoff.time.timestamp())
    require_enough_commits(len(first), int(is_before.sum()), cutoff)
    splits = np.where(is_before, 0, 2).astype(np.uint8)
    before = np.flatnonzero(is_before)
    # Commits are sorted by sha already, so a stable sort by time breaks ties by sha.
    before = before[np.argsort(times[before], kind="stable")]
    selected = select_validation_commits(
        np.stack(sizes, axis=1)[before], is_merge[before] != 0, validation_fraction
    )
    splits[before[selected]] = 1
    return CommitSplits(shas[first], splits, repositories[first])


def _ticks_per_second(column: pa.Array) -> int:
    return {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}[column.type.unit]
