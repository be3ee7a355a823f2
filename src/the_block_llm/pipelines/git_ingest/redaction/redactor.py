"""Replaces secrets and e-mail addresses in texts by placeholders, many texts at a time."""

import bisect
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from the_block_llm.pipelines.git_ingest.redaction.allow_list import AllowList, fingerprint
from the_block_llm.pipelines.git_ingest.redaction.credential_values import FileKind, file_kind
from the_block_llm.pipelines.git_ingest.redaction.email_addresses import (
    EMAIL_KIND,
    personal_addresses,
)
from the_block_llm.pipelines.git_ingest.redaction.named_values import (
    client_passwords,
    has_pending_value,
    inserted_passwords,
    later_secrets,
    named_secrets,
)
from the_block_llm.pipelines.git_ingest.redaction.prefilter import prefilters, rules_on
from the_block_llm.pipelines.git_ingest.redaction.private_keys import (
    find_key,
    mask_key,
    may_bound_key,
)
from the_block_llm.pipelines.git_ingest.redaction.provider_tokens import provider_tokens
from the_block_llm.pipelines.git_ingest.redaction.random_strings import Span, unnamed_secrets

EMAIL_PLACEHOLDER: Final = "<email>"
_HUNK: Final = b"@@ -"
_MAX_CACHED_LINE_BYTES: Final = 500
_MAX_LATER_LINES: Final = 21
# Random strings by the dozen are a table of test vectors, identifiers or digests.
_MAX_UNNAMED: Final = 8


class Finding(NamedTuple):
    """A masked secret or address."""

    line: int
    """Line of the text, from 1."""
    kind: str
    value: str


class Redacted(NamedTuple):
    """A text after redaction, and what was masked."""

    text: str
    findings: list[Finding]


class _CandidateLine(NamedTuple):
    """A line to search: its number in the text, from 0, and its bytes."""

    line_number: int
    raw: bytes


@dataclass(frozen=True)
class Redactor:
    """Masks secrets, e-mail addresses or both."""

    secrets: bool
    emails: bool
    allowed: AllowList = field(default_factory=AllowList)

    def redact(self, texts: Sequence[str | bytes], paths: Sequence[str]) -> dict[int, Redacted]:
        """Return the texts that change, by index.

        Args:
            texts: Texts, as str or UTF-8.
            paths: Path of each text's file, or an empty string; it says how values are written
                there, and whether they are made up.
        """
        if not (self.secrets or self.emails) or not texts:
            return {}
        encoded = [text.encode() if isinstance(text, str) else text for text in texts]
        changed = {}
        for index, lines in self._candidate_lines(encoded):
            redacted = self._redact_lines(encoded[index], lines, paths[index])
            if redacted is not None:
                changed[index] = redacted
        return changed

    def redact_messages(self, messages: Sequence[str | bytes]) -> dict[int, Redacted]:
        """Return the commit messages that change, by index."""
        return self.redact(messages, [""] * len(messages))

    def redact_paths(self, paths: Sequence[str]) -> dict[int, Redacted]:
        """Return the paths that change, by index; different paths remain different."""
        changed = {}
        for index, redacted in self.redact(paths, [""] * len(paths)).items():
            text = paths[index]
            for finding in redacted.findings:
                placeholder = _placeholder(finding.kind)
                named = f"{placeholder[:-1]}:{fingerprint(finding.value)[:6]}{placeholder[-1]}"
                text = text.replace(finding.value, named)
            changed[index] = Redacted(text, redacted.findings)
        return changed

    def _candidate_lines(
        self, texts: Sequence[bytes]
    ) -> Iterator[tuple[int, list[_CandidateLine]]]:
        """Yield the index of each text that may change, and the lines to search."""
        # One buffer for all texts: a search without a match runs no Python code per text.
        buffer = b"\n".join(texts)
        starts = [0, *itertools.accumulate(len(text) + 1 for text in texts)]
        line_starts = set[int]()
        for pattern in prefilters(secrets=self.secrets, emails=self.emails):
            search_from = 0
            while (match := pattern.search(buffer, search_from)) is not None:
                line_starts.add(buffer.rfind(b"\n", 0, match.end()) + 1)
                search_from = buffer.find(b"\n", match.end())
                if search_from < 0:
                    break
        text_index, lines, line_number, counted_until = -1, list[_CandidateLine](), 0, 0
        for line_start in sorted(line_starts):
            if line_start >= starts[text_index + 1]:
                if lines:
                    yield text_index, lines
                text_index = bisect.bisect_right(starts, line_start) - 1
                lines, line_number, counted_until = [], 0, starts[text_index]
            line_number += buffer.count(b"\n", counted_until, line_start)
            counted_until = line_start
            lines.append(
                _CandidateLine(line_number, buffer[line_start : _line_end(buffer, line_start)])
            )
        if lines:
            yield text_index, lines

    def _redact_lines(
        self, text: bytes, candidates: list[_CandidateLine], path: str
    ) -> Redacted | None:
        """Return the redacted text, or None if it does not change."""
        kind = file_kind(path)
        secrets = self.secrets and not self.allowed.has_path(path)
        # In patches the same line occurs as added, context and removed line.
        offset = 1 if text.startswith(_HUNK) else 0
        spans: dict[int, list[Span]] = {}
        key_lines, pending_lines = list[int](), list[int]()
        for line_number, line in candidates:
            content = line[offset:]
            if secrets:
                if may_bound_key(content) and not kind.is_test:
                    key_lines.append(line_number)
                if not line.startswith(_HUNK) and _has_pending_cached(content):
                    pending_lines.append(line_number)
            found = self._find_spans_cached(content, kind, secrets=secrets)
            if found:
                spans[line_number] = list(found)
        if not (spans or key_lines or pending_lines):
            return None
        lines = text.decode("utf-8").split("\n")
        for line_number in pending_lines:
            for version in _versions(lines, line_number, offset):
                for index, span in later_secrets(version, kind):
                    spans.setdefault(line_number + index, []).append(span)
        findings: list[Finding] = []
        in_key = set[int]()
        for line_number in key_lines:
            if line_number in in_key or (key := find_key(lines, line_number)) is None:
                continue
            if not self.allowed.has_value(key.value):
                in_key.update(range(key.first, key.last + 1))
                findings.append(Finding(key.first + 1, "private-key", key.value))
                mask_key(lines, key)
        n_unnamed = sum(s.kind.startswith("high-entropy") for line in spans.values() for s in line)
        is_table = n_unnamed > _MAX_UNNAMED
        for line_number, found_spans in spans.items():
            if line_number in in_key:
                continue
            text_line = lines[line_number]
            masked = [
                Span(span.start + offset, span.end + offset, span.kind)
                for span in _merge_overlaps(found_spans)
                if not (is_table and span.kind.startswith("high-entropy"))
                and not self.allowed.has_value(text_line[span.start + offset : span.end + offset])
            ]
            lines[line_number] = _replace_spans(text_line, masked)
            findings.extend(
                Finding(line_number + 1, span.kind, text_line[span.start : span.end])
                for span in masked
            )
        return Redacted("\n".join(lines), sorted(findings)) if findings else None

    def _find_spans_cached(self, line: bytes, kind: FileKind, *, secrets: bool) -> tuple[Span, ...]:
        find = _find_spans if len(line) > _MAX_CACHED_LINE_BYTES else _cached_spans
        return find(line, kind, secrets, self.emails)


def _line_end(data: bytes, start: int) -> int:
    end = data.find(b"\n", start)
    return len(data) if end < 0 else end


def _versions(lines: list[str], first: int, offset: int) -> Iterator[list[str]]:
    """Yield ``lines[first]`` and those after it, once for each version of a patched file.

    The lines of the other version are empty, so that indices are those of the patch.
    """
    part = lines[first : first + _MAX_LATER_LINES]
    if not offset:
        yield part
        return
    end = next((i for i, line in enumerate(part) if line.startswith("@@")), len(part))
    for other in "+-":
        if not part[0].startswith(other):
            yield ["\0" if line.startswith(other) else line[offset:] for line in part[:end]]


def _find_spans(raw: bytes, kind: FileKind, secrets: bool, emails: bool) -> tuple[Span, ...]:
    line = raw.decode("utf-8")
    found: list[Span] = []
    if secrets:
        rules = rules_on(raw)
        found.extend(provider_tokens(line, rules.formats, is_test=kind.is_test))
        if rules.named:
            found.extend(named_secrets(line, kind))
        if rules.client:
            found.extend(client_passwords(line, kind))
        if rules.insert:
            found.extend(inserted_passwords(line, kind))
        if not kind.is_test:
            found.extend(unnamed_secrets(line))
    secret_spans = tuple(found)
    if emails:
        # Password and host of a URL look like an e-mail address; the host is kept.
        found.extend(
            address
            for address in personal_addresses(line)
            if not _is_local_part_masked(
                address.start, line[address.start : address.end], secret_spans
            )
        )
    return tuple(_merge_overlaps(found))


def _is_local_part_masked(start: int, address: str, secret_spans: Sequence[Span]) -> bool:
    """Return whether everything before the ``@`` is masked already."""
    at = start + address.find("@")
    return any(first <= start and at <= last for first, last, _ in secret_spans)


_cached_spans = functools.lru_cache(maxsize=16_384)(_find_spans)


@functools.lru_cache(maxsize=16_384)
def _has_pending_cached(raw: bytes) -> bool:
    return rules_on(raw).pending and has_pending_value(raw.decode("utf-8"))


def _merge_overlaps(found: Sequence[Span]) -> list[Span]:
    """Merge overlapping spans; the kind is that of the pattern with the highest precedence."""
    merged: list[tuple[int, int, str, int]] = []
    ranked = ((start, end, kind, rank) for rank, (start, end, kind) in enumerate(found))
    for start, end, kind, rank in sorted(ranked):
        if merged and start < merged[-1][1]:
            first, last, best, best_rank = merged[-1]
            best, best_rank = (kind, rank) if rank < best_rank else (best, best_rank)
            merged[-1] = (first, max(last, end), best, best_rank)
        else:
            merged.append((start, end, kind, rank))
    return [Span(start, end, kind) for start, end, kind, _ in merged]


def _replace_spans(line: str, spans: Sequence[Span]) -> str:
    for start, end, kind in reversed(spans):
        line = line[:start] + _placeholder(kind) + line[end:]
    return line


def _placeholder(kind: str) -> str:
    return EMAIL_PLACEHOLDER if kind == EMAIL_KIND else f"[REDACTED:{kind}]"
