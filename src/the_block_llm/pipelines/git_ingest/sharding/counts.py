"""Counts that pieces of work bring back, and how they add up."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

_MAX_NOTED: Final = 200
_MAX_FINDINGS: Final = 1000

Counted = tuple[str | None, int, str | None, str | None, str]
"""Reason to drop a row, its size in bytes, language, encoding and path."""


@dataclass
class Tally:
    """What was read, kept and dropped in one piece, or in all of them."""

    rows: int = 0
    kept_rows: int = 0
    kept_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_bytes: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    """Kept bytes by language."""
    encodings: Counter[str] = field(default_factory=Counter)
    redactions: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    """Where secrets were found, the first thousand: commit, path, line and kind, no value."""
    n_findings: int = 0
    missing_objects: int = 0
    missing: list[dict[str, str]] = field(default_factory=list)
    """Which objects are missing, the first thousand: object and a path that needs it."""
    unreadable_commits: list[str] = field(default_factory=list)
    largest: list[tuple[int, str]] = field(default_factory=list)
    """Bytes and path of the largest texts that were kept."""

    def keep(self, n_bytes: int, language: str | None, encoding: str | None, path: str) -> None:
        self.rows += 1
        self.kept_rows += 1
        self.kept_bytes += n_bytes
        self.languages[language or "unknown"] += n_bytes
        self.encodings[encoding or "unknown"] += 1
        self.largest.append((n_bytes, path))
        if len(self.largest) > 2 * _MAX_NOTED:
            self._trim()

    def count(self, rows: Iterable[Counted]) -> None:
        """Count rows that are kept, and rows that are dropped for a reason."""
        for reason, n_bytes, language, encoding, path in rows:
            if reason is None:
                self.keep(n_bytes, language, encoding, path)
            else:
                self.drop(reason, n_bytes)

    def drop(self, reason: str, n_bytes: int) -> None:
        self.rows += 1
        self.dropped[reason] += 1
        self.dropped_bytes[reason] += n_bytes
        if reason == "missing_object":
            self.missing_objects += 1

    def note_finding(self, finding: dict[str, Any]) -> None:
        self.n_findings += 1
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(finding)

    def note_missing(self, objects: Iterable[str], path: str) -> None:
        for name in objects:
            if len(self.missing) < _MAX_FINDINGS:
                self.missing.append({"object": name, "path": path})

    def as_json(self) -> dict[str, Any]:
        self._trim()
        return {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }

    def add(self, other: dict[str, Any]) -> None:
        """Add the counts that :meth:`as_json` of another tally gave."""
        for name, value in vars(self).items():
            more = other[name]
            if isinstance(value, Counter):
                value.update(more)
            elif isinstance(value, list):
                value.extend(tuple(item) if isinstance(item, list) else item for item in more)
            else:
                setattr(self, name, value + more)
        self._trim()

    def _trim(self) -> None:
        self.largest = sorted(self.largest, reverse=True)[:_MAX_NOTED]
        del self.findings[_MAX_FINDINGS:]
        if self.missing:
            by_object = {entry["object"]: entry for entry in reversed(self.missing)}
            self.missing = list(reversed(by_object.values()))[:_MAX_FINDINGS]
