"""What of a commit is known only when all commits are: recurring subjects and reverts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from the_block_llm.schemas import COMMITS

_RECURS_FROM: Final = 4
"""A subject that stands on that many commits says nothing of any one of them."""
_SHORT_SHA: Final = 7


def commit_batches(pieces: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the table ``commits`` from the commits of all pieces, oldest first.

    Args:
        pieces: Arrow files in the schema PIECE_COMMITS.
    """
    forms = Counter[int]()
    for batch in _stored(pieces):
        forms.update(batch["subject_form"].to_pylist())
    recurring = {form for form, n_commits in forms.items() if n_commits >= _RECURS_FROM}
    reverts = _resolved_reverts(pieces)
    informative_at = COMMITS.get_field_index("informative")
    reverts_at = COMMITS.get_field_index("reverts")
    start = 0
    for batch in _stored(pieces):
        told = [
            said and form not in recurring
            for said, form in zip(
                batch["informative"].to_pylist(), batch["subject_form"].to_pylist(), strict=True
            )
        ]
        undone = [reverts.get(start + i) for i in range(batch.num_rows)]
        start += batch.num_rows
        yield (
            batch.select(COMMITS.names)
            .set_column(informative_at, COMMITS.field("informative"), pa.array(told))
            .set_column(reverts_at, COMMITS.field("reverts"), pa.array(undone, pa.string()))
        )


def _stored(pieces: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for piece in pieces:
        with pa.OSFile(str(piece)) as file, pa.ipc.open_file(file) as reader:
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)


def _resolved_reverts(pieces: Sequence[Path]) -> dict[int, str]:
    """For each commit that undoes another, by its index, the sha of the other.

    In order of trust: the sha in the message, the subject in the message, and a set of
    changes that takes every file back to the content it had.
    """
    earlier = _Earlier()
    reverts: dict[int, str] = {}
    index = 0
    names = ["sha", "reverts", "reverted_subject", "subject_id", "change_id", "inverse_id"]
    for batch in _stored(pieces):
        for row in zip(*(batch[name].to_pylist() for name in names), strict=True):
            sha, stated, subject, subject_id, change_id, inverse_id = row
            undone = (
                earlier.named(stated)
                or earlier.by_subject.get(subject)
                or earlier.by_change.get(inverse_id)
            )
            if undone is not None:
                reverts[index] = undone
            earlier.note(sha, subject_id, change_id)
            index += 1
    return reverts


class _Earlier:
    """Commits that came before, by what a revert may know of them."""

    def __init__(self) -> None:
        self.by_subject: dict[int | None, str] = {}
        self.by_change: dict[int | None, str] = {}
        self._by_start: dict[str, str] = {}

    def note(self, sha: str, subject_id: int, change_id: int | None) -> None:
        self.by_subject[subject_id] = sha
        if change_id is not None:
            self.by_change[change_id] = sha
        self._by_start[sha[:_SHORT_SHA]] = sha

    def named(self, sha: str | None) -> str | None:
        """Return the whole sha of an earlier commit that is named by its start."""
        found = None if sha is None else self._by_start.get(sha[:_SHORT_SHA])
        return found if found is not None and sha is not None and found.startswith(sha) else None
