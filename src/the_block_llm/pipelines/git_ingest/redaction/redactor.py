"""Replaces secrets and e-mail addresses in texts by placeholders, many texts at a time."""

import bisect
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from the_block_llm.pipelines.git_ingest.redaction.secret_heuristics import (
    Span,
    assigned_secrets,
    high_entropy_strings,
    is_config,
)
from the_block_llm.pipelines.git_ingest.redaction.secret_patterns import (
    EMAIL,
    PRIVATE_KEY_BEGIN,
    all_patterns,
    named_value_prefilter,
    pattern_prefilter,
    prefilters,
)

EMAIL_KIND: Final = "email"
EMAIL_PLACEHOLDER: Final = "<email>"
_KEY_END: Final = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|Private-MAC:")
_KEY_LINE: Final = re.compile(
    r"^[+\- ]?[\s\"'#*/|>]*"
    r"(?:[A-Za-z0-9+/=\\]{8,}[\s\"',+\\;)]*|[A-Za-z-]+: \S.*|=[A-Za-z0-9+/]{4}\s*|)$"
)
_MAX_KEY_LINES: Final = 200
_HUNK: Final = b"@@ -"
_MAX_CACHED_LINE_BYTES: Final = 500
# Addresses that do not identify a person.
_NON_PERSONAL_EMAIL: Final = re.compile(
    r"@(?:[\w-]+\.)*(?:example|test|invalid|localhost|local)(?:\.(?:com|org|net))?$|^git@",
    re.IGNORECASE,
)


class Finding(NamedTuple):
    """A masked secret or address: line of the text, from 1, and kind."""

    line: int
    kind: str


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

    def redact(self, texts: Sequence[str | bytes], paths: Sequence[str]) -> dict[int, Redacted]:
        """Return the texts that change, by index.

        Args:
            texts: Texts, as str or UTF-8.
            paths: Path of each text's file, or an empty string; configuration files are
                searched more strictly than code.
        """
        if not (self.secrets or self.emails) or not texts:
            return {}
        encoded = [text.encode() if isinstance(text, str) else text for text in texts]
        changed = {}
        for index, lines in self._candidate_lines(encoded):
            redacted = self._redact_lines(encoded[index], lines, in_config=is_config(paths[index]))
            if redacted is not None:
                changed[index] = redacted
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
                # White space in a pattern can match a line break: search both lines.
                line_starts.update(
                    buffer.rfind(b"\n", 0, position) + 1 for position in match.span()
                )
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
        self, text: bytes, candidates: list[_CandidateLine], *, in_config: bool
    ) -> Redacted | None:
        """Return the redacted text, or None if it does not change."""
        # In patches the same line occurs as added, context and removed line.
        offset = 1 if text.startswith(_HUNK) else 0
        spans: dict[int, list[Span]] = {}
        has_key = False
        for line_number, line in candidates:
            has_key = has_key or (self.secrets and _may_begin_key(line))
            found = self._find_spans_cached(line[offset:], in_config)
            if found:
                spans[line_number] = [
                    (start + offset, end + offset, kind) for start, end, kind in found
                ]
        if not (spans or has_key):
            return None
        lines = text.decode("utf-8").split("\n")
        findings: list[Finding] = []
        in_key_until = -1
        for line_number, _ in candidates:
            if line_number <= in_key_until:
                continue
            if self.secrets and PRIVATE_KEY_BEGIN.search(lines[line_number]):
                in_key_until = _mask_key_block(lines, line_number)
                findings.append(Finding(line_number + 1, "private-key"))
            elif line_number in spans:
                lines[line_number] = _replace_spans(lines[line_number], spans[line_number])
                findings.extend(Finding(line_number + 1, kind) for _, _, kind in spans[line_number])
        return Redacted("\n".join(lines), findings) if findings else None

    def _find_spans_cached(self, line: bytes, in_config: bool) -> tuple[Span, ...]:
        find = _find_spans if len(line) > _MAX_CACHED_LINE_BYTES else _cached_spans
        return find(line, in_config, self.secrets, self.emails)


def _line_end(data: bytes, start: int) -> int:
    end = data.find(b"\n", start)
    return len(data) if end < 0 else end


def _may_begin_key(line: bytes) -> bool:
    return b"PRIVATE KEY" in line or b"PuTTY-User" in line


def _find_spans(raw: bytes, in_config: bool, secrets: bool, emails: bool) -> tuple[Span, ...]:
    line = raw.decode("utf-8")
    found: list[Span] = []
    if secrets:
        # The automata treat only ASCII letters as letters.
        is_ascii = line.isascii()
        if not is_ascii or pattern_prefilter().search(raw) is not None:
            for secret in all_patterns():
                found.extend((*_secret_span(m), secret.kind) for m in secret.pattern.finditer(line))
        if not is_ascii or named_value_prefilter().search(raw) is not None:
            found.extend(assigned_secrets(line, in_config=in_config))
        found.extend(high_entropy_strings(line))
    secret_spans = tuple(found)
    if emails:
        # Password and host of a URL look like an e-mail address; the host is kept.
        found.extend(
            (*m.span(), EMAIL_KIND)
            for m in EMAIL.finditer(line)
            if not _NON_PERSONAL_EMAIL.search(m[0])
            and not _is_local_part_masked(m.start(), m[0], secret_spans)
        )
    return tuple(_merge_overlaps(found))


def _is_local_part_masked(start: int, address: str, secret_spans: Sequence[Span]) -> bool:
    """Return whether everything before the ``@`` is masked already."""
    at = start + address.find("@")
    return any(first <= start and at <= last for first, last, _ in secret_spans)


_cached_spans = functools.lru_cache(maxsize=16_384)(_find_spans)


def _secret_span(match: re.Match[str]) -> tuple[int, int]:
    group = next((i for i, value in enumerate(match.groups(), 1) if value), 0)
    return match.span(group)


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
    return [(start, end, kind) for start, end, kind, _ in merged]


def _replace_spans(line: str, spans: Sequence[Span]) -> str:
    for start, end, kind in reversed(spans):
        placeholder = EMAIL_PLACEHOLDER if kind == EMAIL_KIND else f"[REDACTED:{kind}]"
        line = line[:start] + placeholder + line[end:]
    return line


def _mask_key_block(lines: list[str], first: int) -> int:
    """Mask a private key that starts in line ``first``, and return the index of its last line.

    The number of lines does not change, so hunk headers remain valid.
    """
    begin = PRIVATE_KEY_BEGIN.search(lines[first])
    assert begin is not None  # noqa: S101
    end = _KEY_END.search(lines[first], begin.end())
    after = lines[first][end.end() :] if end else ""
    rest = lines[first][begin.end() :]
    is_one_line = end is not None or len(rest.strip("\"'\\,;)+ ")) > 8
    lines[first] = lines[first][: begin.start()] + "[REDACTED:private-key]" + after
    if is_one_line:
        return first
    last = first
    for line_number in range(first + 1, min(first + _MAX_KEY_LINES, len(lines))):
        line = lines[line_number]
        is_end = _KEY_END.search(line) is not None
        if not is_end and not _KEY_LINE.match(line):
            break
        prefix = line[:1] if line[:1] in "+- " else ""
        lines[line_number] = f"{prefix}[REDACTED:private-key]" if line[1:].strip() else line
        last = line_number
        if is_end:
            break
    return last
