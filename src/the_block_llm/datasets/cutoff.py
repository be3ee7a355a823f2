"""What git_ingest records: the cut-off T0 between training and held-out data, and its own end."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from the_block_llm.errors import stored_data


@dataclass(frozen=True)
class Cutoff:
    """Cut-off T0; the tree of its commit is the training snapshot."""

    sha: str | None
    """None if the repository has no commit before the cut-off: nothing of it is trained on."""
    time: datetime
    head_sha: str
    """HEAD commit of the history."""

    @property
    def holds_out(self) -> bool:
        """Whether there is history after the cut-off."""
        return self.sha != self.head_sha

    def includes(self, time: datetime) -> bool:
        """Return whether ``time`` is at or before the cut-off."""
        return as_utc(time) <= self.time


def read_cutoff(repository: Mapping[str, Any]) -> Cutoff:
    """Return the cut-off of the ingested tables, from the content of ``repository.json``.

    Raises:
        StaleDataError: Another version of the project wrote it.
    """
    with stored_repository():
        return Cutoff(
            sha=repository["cutoff"]["sha"],
            time=as_utc(datetime.fromisoformat(repository["cutoff"]["time"])),
            head_sha=repository["head"],
        )


def stored_repository() -> AbstractContextManager[None]:
    """Report a ``repository.json`` of another form as StaleDataError."""
    return stored_data("The dataset repository", "Run `kedro run --pipeline=git_ingest` again.")


def tables_are_complete(
    repository: Mapping[str, Any], snapshot_counts: Sequence[Mapping[str, Any]]
) -> bool:
    """Return whether all tables come from the run of git_ingest that wrote ``repository``.

    A run describes the repository first, with the time, and counts the snapshots after it has
    written all tables. If the times differ, it is still running or was stopped.

    Args:
        repository: Content of ``repository.json``.
        snapshot_counts: Content of ``snapshot_counts.json``.
    """
    pinned_at = repository.get("pinned_at")
    # None: not written by a run.
    return pinned_at is None or (
        bool(snapshot_counts)
        and all(entry.get("pinned_at") == pinned_at for entry in snapshot_counts)
    )


def as_utc(time: datetime) -> datetime:
    """Convert ``time`` to UTC; a naive time is taken as UTC, as in all tables."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
