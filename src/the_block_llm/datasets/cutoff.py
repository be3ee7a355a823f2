"""T0, the moment that divides what is learned from what is held back, as git_ingest noted it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Cutoff:
    """T0: the commit whose tree is trained on."""

    sha: str | None
    """None where the repository began after the cut-off, so that nothing of it is trained on."""
    time: datetime
    head_sha: str
    """Commit at the end of the history."""

    @property
    def holds_out(self) -> bool:
        """False where everything is trained on."""
        return self.sha != self.head_sha

    def is_before(self, time: datetime) -> bool:
        """True where ``time`` is not after the cut-off."""
        return as_utc(time) <= self.time


def read_cutoff(repository: Mapping[str, Any]) -> Cutoff:
    """The cut-off that the tables on disk were made for, out of ``repository.json``."""
    return Cutoff(
        sha=repository["cutoff"]["sha"],
        time=as_utc(datetime.fromisoformat(repository["cutoff"]["time"])),
        head_sha=repository["head"],
    )


def as_utc(time: datetime) -> datetime:
    """``time`` with its zone; what comes without one is UTC, as all tables are."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
