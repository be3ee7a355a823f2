"""The input type of the source code parsers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceFile:
    """A file of a snapshot that has text."""

    path: str
    language: str | None
    text: str
