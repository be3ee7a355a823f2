"""The cut-off T0 between training data and held-out data, as recorded by git_ingest."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


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
    """Return the cut-off of the ingested tables, from the content of ``repository.json``."""
    return Cutoff(
        sha=repository["cutoff"]["sha"],
        time=as_utc(datetime.fromisoformat(repository["cutoff"]["time"])),
        head_sha=repository["head"],
    )


def as_utc(time: datetime) -> datetime:
    """Convert ``time`` to UTC; a naive time is taken as UTC, as in all tables."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
