"""Detects recurring subjects and reverts, which needs all commits of a history.

Only the hashes of a commit's subject and changes are held in memory, so memory hardly grows with
the length of the history.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from the_block_llm.schemas import COMMITS

_MIN_RECURRENCES: Final = 4
"""A subject of at least this many commits describes none of them."""
_SHA_PREFIX_CHARACTERS: Final = 7
_BATCH_ROWS: Final = 4096
_BATCH_BYTES: Final = 4 << 20

_Hashes = npt.NDArray[np.int64]


def commit_batches(shards: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the table ``commits`` from the commits of all shards, oldest first.

    Args:
        shards: Arrow files in the schema SHARD_COMMITS.
    """
    statistics = _scan_history(shards)
    reverts = _RevertIndex(statistics)
    informative_index = COMMITS.get_field_index("informative")
    reverts_index = COMMITS.get_field_index("reverts")
    for batch in _read_batches(shards):
        is_recurring = np.isin(batch["subject_form"].to_numpy(), statistics.recurring)
        informative = pc.and_(batch["informative"], pa.array(~is_recurring))
        reverted = reverts.find_reverted(batch)
        yield (
            batch.select(COMMITS.names)
            .set_column(informative_index, COMMITS.field("informative"), informative)
            .set_column(reverts_index, COMMITS.field("reverts"), pa.array(reverted, pa.string()))
        )


def _read_batches(shards: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """Yield the commits of all shards in batches that span several shards.

    Operations on a batch cost the same for ten commits as for a thousand.
    """
    pending: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    for shard in shards:
        with pa.OSFile(str(shard)) as file, pa.ipc.open_file(file) as reader:
            for i in range(reader.num_record_batches):
                pending.append(reader.get_batch(i))
                n_rows += pending[-1].num_rows
                n_bytes += pending[-1].nbytes
                if n_rows >= _BATCH_ROWS or n_bytes >= _BATCH_BYTES:
                    yield _concat_batches(pending)
                    pending, n_rows, n_bytes = [], 0, 0
    if pending:
        yield _concat_batches(pending)


def _concat_batches(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


class _HistoryStatistics(NamedTuple):
    """Collected from all commits before the first row is returned."""

    recurring: _Hashes
    """Normalized subjects of several commits."""
    reverted_subjects: _Hashes
    """Subjects that a message names as reverted."""
    inverted_changes: _Hashes
    """Sets of changes whose inverse is in the history."""
    reverted_prefixes: pa.Array
    """Prefixes of shas that a message names as reverted."""


def _scan_history(shards: Sequence[Path]) -> _HistoryStatistics:
    columns = ("subject_form", "reverted_subject", "change_id", "inverse_id")
    hashes: dict[str, list[_Hashes]] = {name: [np.empty(0, np.int64)] for name in columns}
    prefixes = [pa.array([], pa.string())]
    for batch in _read_batches(shards):
        for name in columns:
            # A copy: a view of Arrow's memory would keep the whole batch alive.
            hashes[name].append(np.array(batch[name].drop_null().to_numpy()))
        reverts = batch["reverts"].drop_null()
        prefixes.append(pc.utf8_slice_codeunits(reverts, 0, _SHA_PREFIX_CHARACTERS))
    subjects, n_commits = np.unique(np.concatenate(hashes["subject_form"]), return_counts=True)
    return _HistoryStatistics(
        subjects[n_commits >= _MIN_RECURRENCES],
        np.unique(np.concatenate(hashes["reverted_subject"])),
        np.intersect1d(np.concatenate(hashes["change_id"]), np.concatenate(hashes["inverse_id"])),
        pa.concat_arrays(prefixes),
    )


@dataclass
class _RevertIndex:
    """Earlier commits that a revert may refer to."""

    statistics: _HistoryStatistics
    by_subject: dict[int, str] = field(default_factory=dict)
    by_change: dict[int, str] = field(default_factory=dict)
    by_prefix: dict[str, str] = field(default_factory=dict)

    def find_reverted(self, batch: pa.RecordBatch) -> list[str | None]:
        """Return for each commit the sha of the commit that it reverts, and index the batch.

        In order of precedence: the sha in the message, the subject in the message, and a set of
        changes that takes every file back to its earlier content.
        """
        reverted: list[str | None] = [None] * batch.num_rows
        names = ("sha", "reverts", "reverted_subject", "subject_id", "change_id", "inverse_id")
        candidates = batch.select(names).append_column("row", pa.array(range(batch.num_rows)))
        candidates = candidates.filter(self._is_candidate(batch))
        for row in zip(*(candidates[name].to_pylist() for name in (*names, "row")), strict=True):
            sha, stated_sha, subject, subject_id, change_id, inverse_id, index = row
            reverted[index] = (
                self._resolve_sha(stated_sha)
                or self.by_subject.get(subject)
                or self.by_change.get(inverse_id)
            )
            self.by_subject[subject_id] = sha
            if change_id is not None:
                self.by_change[change_id] = sha
            self.by_prefix[sha[:_SHA_PREFIX_CHARACTERS]] = sha
        return reverted

    def _is_candidate(self, batch: pa.RecordBatch) -> pa.Array:
        """Return a mask of commits that may revert or be reverted by any commit."""
        prefixes = pc.utf8_slice_codeunits(batch["sha"], 0, _SHA_PREFIX_CHARACTERS)
        conditions = [
            pc.is_valid(batch["reverts"]),
            pc.is_valid(batch["reverted_subject"]),
            pc.is_in(batch["inverse_id"], pa.array(self.statistics.inverted_changes)),
            pc.is_in(batch["subject_id"], pa.array(self.statistics.reverted_subjects)),
            pc.is_in(batch["change_id"], pa.array(self.statistics.inverted_changes)),
            pc.is_in(prefixes, self.statistics.reverted_prefixes),
        ]
        mask = conditions[0]
        for condition in conditions[1:]:
            mask = pc.or_(mask, condition)
        return mask

    def _resolve_sha(self, sha: str | None) -> str | None:
        """Return the full sha of an earlier commit from an abbreviated one."""
        found = None if sha is None else self.by_prefix.get(sha[:_SHA_PREFIX_CHARACTERS])
        return found if found is not None and sha is not None and found.startswith(sha) else None
