"""T0, the moment that divides what was learned from what is asked about."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Cutoff:
    """The cut-off that the tables on disk were made for."""

    sha: str
    """Commit whose tree was trained on."""
    time: datetime
    head_sha: str
    """Commit at the end of the history."""

    def is_before(self, time: datetime) -> bool:
        """True where ``time`` is not after the cut-off."""
        return utc(time) <= self.time


def read_cutoff(repository: Mapping[str, Any]) -> Cutoff:
    """Take the cut-off from git_ingest's description of the repository."""
    return Cutoff(
        sha=repository["cutoff"]["sha"],
        time=utc(datetime.fromisoformat(repository["cutoff"]["time"])),
        head_sha=repository["head"],
    )


def utc(time: datetime) -> datetime:
    """``time`` with its zone; what comes without one is UTC, as all tables are."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
