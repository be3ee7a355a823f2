"""One file of a tree, as the parsers of code read it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SnapshotFile:
    """A kept file of one tree."""

    path: str
    language: str | None
    text: str
