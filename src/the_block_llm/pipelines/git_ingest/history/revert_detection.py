"""What of a commit is known only when all commits are: recurring subjects and reverts.

Of each commit no more is kept than the numbers of its subject and of its changes, so that the
length of a history hardly shows in memory.
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

_RECURS_FROM: Final = 4
"""A subject that stands on that many commits says nothing of any one of them."""
_SHORT_SHA: Final = 7
_BATCH_ROWS: Final = 4096
_BATCH_BYTES: Final = 4 << 20

_Numbers = npt.NDArray[np.int64]


def commit_batches(pieces: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the table ``commits`` from the commits of all pieces, oldest first.

    Args:
        pieces: Arrow files in the schema PIECE_COMMITS.
    """
    survey = _survey(pieces)
    earlier = _Earlier(survey)
    informative_at = COMMITS.get_field_index("informative")
    reverts_at = COMMITS.get_field_index("reverts")
    for batch in _stored(pieces):
        recurs = np.isin(batch["subject_form"].to_numpy(), survey.recurring)
        told = pc.and_(batch["informative"], pa.array(~recurs))
        undone = earlier.undone_by(batch)
        yield (
            batch.select(COMMITS.names)
            .set_column(informative_at, COMMITS.field("informative"), told)
            .set_column(reverts_at, COMMITS.field("reverts"), pa.array(undone, pa.string()))
        )


def _stored(pieces: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """Yield the commits of all pieces, those of neighbours together.

    What is asked of a batch costs the same for ten commits as for a thousand.
    """
    held: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    for piece in pieces:
        with pa.OSFile(str(piece)) as file, pa.ipc.open_file(file) as reader:
            for i in range(reader.num_record_batches):
                held.append(reader.get_batch(i))
                n_rows += held[-1].num_rows
                n_bytes += held[-1].nbytes
                if n_rows >= _BATCH_ROWS or n_bytes >= _BATCH_BYTES:
                    yield _joined(held)
                    held, n_rows, n_bytes = [], 0, 0
    if held:
        yield _joined(held)


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


class _Survey(NamedTuple):
    """What has to be known of all commits before the first one is settled."""

    recurring: _Numbers
    """Subjects that stand on several commits, by their form."""
    subjects: _Numbers
    """Subjects that a message says it reverts."""
    changes: _Numbers
    """Sets of changes whose inverse is somewhere in the history."""
    starts: pa.Array
    """First letters of shas that a message says it reverts."""


def _survey(pieces: Sequence[Path]) -> _Survey:
    columns = ("subject_form", "reverted_subject", "change_id", "inverse_id")
    numbers: dict[str, list[_Numbers]] = {name: [np.empty(0, np.int64)] for name in columns}
    starts = [pa.array([], pa.string())]
    for batch in _stored(pieces):
        for name in columns:
            # A copy: Arrow's own would keep the whole batch.
            numbers[name].append(np.array(batch[name].drop_null().to_numpy()))
        starts.append(pc.utf8_slice_codeunits(batch["reverts"].drop_null(), 0, _SHORT_SHA))
    forms, n_commits = np.unique(np.concatenate(numbers["subject_form"]), return_counts=True)
    return _Survey(
        forms[n_commits >= _RECURS_FROM],
        np.unique(np.concatenate(numbers["reverted_subject"])),
        np.intersect1d(np.concatenate(numbers["change_id"]), np.concatenate(numbers["inverse_id"])),
        pa.concat_arrays(starts),
    )


@dataclass
class _Earlier:
    """Commits that came before, by what a revert may know of them."""

    survey: _Survey
    by_subject: dict[int, str] = field(default_factory=dict)
    by_change: dict[int, str] = field(default_factory=dict)
    by_start: dict[str, str] = field(default_factory=dict)

    def undone_by(self, batch: pa.RecordBatch) -> list[str | None]:
        """Return for each commit the sha of the one that it undoes, and remember them all.

        In order of trust: the sha in the message, the subject in the message, and a set of
        changes that takes every file back to the content it had.
        """
        undone: list[str | None] = [None] * batch.num_rows
        names = ("sha", "reverts", "reverted_subject", "subject_id", "change_id", "inverse_id")
        concerned = batch.select(names).append_column("row", pa.array(range(batch.num_rows)))
        concerned = concerned.filter(self._concerns(batch))
        for row in zip(*(concerned[name].to_pylist() for name in (*names, "row")), strict=True):
            sha, stated, subject, subject_id, change_id, inverse_id, number = row
            undone[number] = (
                self._named(stated)
                or self.by_subject.get(subject)
                or self.by_change.get(inverse_id)
            )
            self.by_subject[subject_id] = sha
            if change_id is not None:
                self.by_change[change_id] = sha
            self.by_start[sha[:_SHORT_SHA]] = sha
        return undone

    def _concerns(self, batch: pa.RecordBatch) -> pa.Array:
        """True for commits that undo one or that one undoes, anywhere in the history."""
        starts = pc.utf8_slice_codeunits(batch["sha"], 0, _SHORT_SHA)
        asked = [
            pc.is_valid(batch["reverts"]),
            pc.is_valid(batch["reverted_subject"]),
            pc.is_in(batch["inverse_id"], pa.array(self.survey.changes)),
            pc.is_in(batch["subject_id"], pa.array(self.survey.subjects)),
            pc.is_in(batch["change_id"], pa.array(self.survey.changes)),
            pc.is_in(starts, self.survey.starts),
        ]
        concerned = asked[0]
        for more in asked[1:]:
            concerned = pc.or_(concerned, more)
        return concerned

    def _named(self, sha: str | None) -> str | None:
        """Return the whole sha of an earlier commit that is named by its start."""
        found = None if sha is None else self.by_start.get(sha[:_SHORT_SHA])
        return found if found is not None and sha is not None and found.startswith(sha) else None
