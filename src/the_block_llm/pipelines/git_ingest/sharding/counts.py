"""Counts of rows read, kept and dropped, per shard and in total."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_MAX_LARGEST: Final = 200
_MAX_FINDINGS: Final = 1000

CountedRow = tuple[str | None, int, str | None, str | None, str]
"""Drop reason or None, size in bytes, language, encoding and path."""


@dataclass
class RowCounts:
    """What was read, kept and dropped in one shard, or in all of them."""

    rows: int = 0
    kept_rows: int = 0
    kept_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_bytes: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    """Kept bytes by language."""
    encodings: Counter[str] = field(default_factory=Counter)
    redactions: Counter[str] = field(default_factory=Counter)
    payloads: Counter[str] = field(default_factory=Counter)
    """Binary data written as text that was removed from kept texts, by kind."""
    payload_bytes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    """The first thousand secrets found: commit, path, line and kind, without the value."""
    n_findings: int = 0
    missing_objects: int = 0
    missing: list[dict[str, str]] = field(default_factory=list)
    """The first thousand missing objects, each with a path that needs it."""
    unreadable_commits: list[str] = field(default_factory=list)
    corrected_dates: int = 0
    """Commits whose recorded time is more than a day from the one in the table."""
    largest: list[tuple[int, str]] = field(default_factory=list)
    """Bytes and path of the largest kept texts."""

    def add_kept(self, n_bytes: int, language: str | None, encoding: str | None, path: str) -> None:
        self.rows += 1
        self.kept_rows += 1
        self.kept_bytes += n_bytes
        self.languages[language or "unknown"] += n_bytes
        self.encodings[encoding or "unknown"] += 1
        self.largest.append((n_bytes, path))
        if len(self.largest) > 2 * _MAX_LARGEST:
            self._trim()

    def add_rows(self, rows: Iterable[CountedRow]) -> None:
        """Count rows as kept, or as dropped if they have a reason."""
        for reason, n_bytes, language, encoding, path in rows:
            if reason is None:
                self.add_kept(n_bytes, language, encoding, path)
            else:
                self.add_dropped(reason, n_bytes)

    def add_dropped(self, reason: str, n_bytes: int) -> None:
        self.rows += 1
        self.dropped[reason] += 1
        self.dropped_bytes[reason] += n_bytes
        if reason == "missing_object":
            self.missing_objects += 1

    def add_payloads(self, removed: Mapping[str, int], removed_bytes: Mapping[str, int]) -> None:
        """Count what was removed from one text, by kind."""
        self.payloads.update(removed)
        self.payload_bytes.update(removed_bytes)

    def add_finding(self, finding: dict[str, Any]) -> None:
        self.n_findings += 1
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(finding)

    def add_missing(self, shas: Iterable[str], path: str) -> None:
        for sha in shas:
            if len(self.missing) < _MAX_FINDINGS:
                self.missing.append({"object": sha, "path": path})

    def as_json(self) -> dict[str, Any]:
        self._trim()
        return {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }

    def merge(self, other: dict[str, Any]) -> None:
        """Add counts returned by :meth:`as_json`."""
        for name, value in vars(self).items():
            added = other[name]
            if isinstance(value, Counter):
                value.update(added)
            elif isinstance(value, list):
                value.extend(tuple(item) if isinstance(item, list) else item for item in added)
            else:
                setattr(self, name, value + added)
        self._trim()

    def _trim(self) -> None:
        self.largest = sorted(self.largest, reverse=True)[:_MAX_LARGEST]
        del self.findings[_MAX_FINDINGS:]
        if self.missing:
            by_object = {entry["object"]: entry for entry in reversed(self.missing)}
            self.missing = list(reversed(by_object.values()))[:_MAX_FINDINGS]
