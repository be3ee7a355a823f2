"""Marks in the place of secrets and of e-mail addresses, in many texts at a time."""

import bisect
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from the_block_llm.pipelines.git_ingest.redaction.secret_heuristics import (
    Span,
    is_config,
    keyed_values,
    random_values,
)
from the_block_llm.pipelines.git_ingest.redaction.secret_patterns import (
    EMAIL,
    PRIVATE_KEY_BEGIN,
    could_be_named_value,
    could_be_rule,
    first_looks,
    rules,
)

EMAIL_KIND: Final = "email"
EMAIL_MARK: Final = "<email>"
_KEY_END: Final = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|Private-MAC:")
_KEY_LINE: Final = re.compile(
    r"^[+\- ]?[\s\"'#*/|>]*"
    r"(?:[A-Za-z0-9+/=\\]{8,}[\s\"',+\\;)]*|[A-Za-z-]+: \S.*|=[A-Za-z0-9+/]{4}\s*|)$"
)
_MAX_KEY_LINES: Final = 200
_HUNK: Final = b"@@ -"
_LONGEST_REMEMBERED: Final = 500
# Addresses that stand for nobody.
_NOBODY: Final = re.compile(
    r"@(?:[\w-]+\.)*(?:example|test|invalid|localhost|local)(?:\.(?:com|org|net))?$|^git@",
    re.IGNORECASE,
)


class Finding(NamedTuple):
    """Where something was masked: the line of the text, from 1, and what it was."""

    line: int
    kind: str


class Redacted(NamedTuple):
    """A text in which nothing secret is left, and what was taken out."""

    text: str
    findings: list[Finding]


class _Line(NamedTuple):
    """A line that needs a look: its number in the text, from 0, and its bytes."""

    number: int
    raw: bytes


@dataclass(frozen=True)
class Redactor:
    """Masks secrets, addresses or both."""

    secrets: bool
    addresses: bool

    def redact(self, texts: Sequence[str | bytes], paths: Sequence[str]) -> dict[int, Redacted]:
        """Return those of ``texts`` that have to change, by their index.

        Args:
            texts: Text, or the same as UTF-8.
            paths: For each text the file that it belongs to; settings are read more
                strictly than code. Empty for a message.
        """
        if not (self.secrets or self.addresses) or not texts:
            return {}
        encoded = [text.encode() if isinstance(text, str) else text for text in texts]
        changed = {}
        for index, lines in self._suspicious(encoded):
            marked = self._marked(encoded[index], lines, in_config=is_config(paths[index]))
            if marked is not None:
                changed[index] = marked
        return changed

    def _suspicious(self, texts: Sequence[bytes]) -> Iterator[tuple[int, list[_Line]]]:
        """Yield the index of each text that needs a look, and the lines to look at."""
        # One buffer for all: a search that finds nothing then costs no Python at all.
        joined = b"\n".join(texts)
        starts = [0, *itertools.accumulate(len(text) + 1 for text in texts)]
        borders = set[int]()
        for pattern in first_looks(secrets=self.secrets, addresses=self.addresses):
            at = 0
            while (found := pattern.search(joined, at)) is not None:
                # White space in a pattern can reach over a line's end: look at both lines.
                borders.update(joined.rfind(b"\n", 0, place) + 1 for place in found.span())
                at = joined.find(b"\n", found.end())
                if at < 0:
                    break
        owner, lines, number, counted_to = -1, list[_Line](), 0, 0
        for border in sorted(borders):
            if border >= starts[owner + 1]:
                if lines:
                    yield owner, lines
                owner = bisect.bisect_right(starts, border) - 1
                lines, number, counted_to = [], 0, starts[owner]
            number += joined.count(b"\n", counted_to, border)
            counted_to = border
            lines.append(_Line(number, joined[border : _end_of_line(joined, border)]))
        if lines:
            yield owner, lines

    def _marked(self, text: bytes, suspicious: list[_Line], *, in_config: bool) -> Redacted | None:
        """Return the text with marks, None where nothing has to be masked."""
        # The same line stands in patches as added, as context and as removed.
        at = 1 if text.startswith(_HUNK) else 0
        spans: dict[int, list[Span]] = {}
        has_key = False
        for number, line in suspicious:
            has_key = has_key or (self.secrets and _could_begin_key(line))
            found = self._spans(line[at:], in_config)
            if found:
                spans[number] = [(start + at, end + at, kind) for start, end, kind in found]
        if not (spans or has_key):
            return None
        lines = text.decode("utf-8").split("\n")
        findings: list[Finding] = []
        in_key_until = -1
        for number, _ in suspicious:
            if number <= in_key_until:
                continue
            if self.secrets and PRIVATE_KEY_BEGIN.search(lines[number]):
                in_key_until = _mask_key_block(lines, number)
                findings.append(Finding(number + 1, "private-key"))
            elif number in spans:
                lines[number] = _with_marks(lines[number], spans[number])
                findings.extend(Finding(number + 1, kind) for _, _, kind in spans[number])
        return Redacted("\n".join(lines), findings) if findings else None

    def _spans(self, line: bytes, in_config: bool) -> tuple[Span, ...]:
        find = _spans_of if len(line) > _LONGEST_REMEMBERED else _remembered_spans
        return find(line, in_config, self.secrets, self.addresses)


def _end_of_line(data: bytes, start: int) -> int:
    end = data.find(b"\n", start)
    return len(data) if end < 0 else end


def _could_begin_key(line: bytes) -> bool:
    return b"PRIVATE KEY" in line or b"PuTTY-User" in line


def _spans_of(raw: bytes, in_config: bool, secrets: bool, addresses: bool) -> tuple[Span, ...]:
    line = raw.decode("utf-8")
    found: list[Span] = []
    if secrets:
        # The automata know the letters of ASCII only.
        knows_letters = line.isascii()
        if not knows_letters or could_be_rule().search(raw) is not None:
            for rule in rules():
                found.extend((*_secret_of(m), rule.kind) for m in rule.pattern.finditer(line))
        if not knows_letters or could_be_named_value().search(raw) is not None:
            found.extend(keyed_values(line, in_config=in_config))
        found.extend(random_values(line))
    secrets_found = tuple(found)
    if addresses:
        # The password and the host of a URL look like an address: the host may stay.
        found.extend(
            (*m.span(), EMAIL_KIND)
            for m in EMAIL.finditer(line)
            if not _NOBODY.search(m[0]) and not _is_secret(m.start(), m[0], secrets_found)
        )
    return tuple(_without_overlaps(found))


def _is_secret(start: int, address: str, secrets_found: Sequence[Span]) -> bool:
    """True where all that stands before the ``@`` is masked already."""
    at = start + address.find("@")
    return any(first <= start and at <= last for first, last, _ in secrets_found)


_remembered_spans = functools.lru_cache(maxsize=16_384)(_spans_of)


def _secret_of(match: re.Match[str]) -> tuple[int, int]:
    group = next((i for i, value in enumerate(match.groups(), 1) if value), 0)
    return match.span(group)


def _without_overlaps(found: Sequence[Span]) -> list[Span]:
    """Join overlapping spans; the first rule that found one gives it its kind."""
    joined: list[tuple[int, int, str, int]] = []
    ranked = ((start, end, kind, rank) for rank, (start, end, kind) in enumerate(found))
    for start, end, kind, rank in sorted(ranked):
        if joined and start < joined[-1][1]:
            first, last, best, best_rank = joined[-1]
            best, best_rank = (kind, rank) if rank < best_rank else (best, best_rank)
            joined[-1] = (first, max(last, end), best, best_rank)
        else:
            joined.append((start, end, kind, rank))
    return [(start, end, kind) for start, end, kind, _ in joined]


def _with_marks(line: str, spans: Sequence[Span]) -> str:
    for start, end, kind in reversed(spans):
        mark = EMAIL_MARK if kind == EMAIL_KIND else f"[REDACTED:{kind}]"
        line = line[:start] + mark + line[end:]
    return line


def _mask_key_block(lines: list[str], first: int) -> int:
    """Mask a private key that begins in line ``first``; return its last line.

    The number of lines stays, so that hunk headers stay true.
    """
    begin = PRIVATE_KEY_BEGIN.search(lines[first])
    assert begin is not None  # noqa: S101
    end = _KEY_END.search(lines[first], begin.end())
    after = lines[first][end.end() :] if end else ""
    rest = lines[first][begin.end() :]
    on_one_line = end is not None or len(rest.strip("\"'\\,;)+ ")) > 8
    lines[first] = lines[first][: begin.start()] + "[REDACTED:private-key]" + after
    if on_one_line:
        return first
    last = first
    for number in range(first + 1, min(first + _MAX_KEY_LINES, len(lines))):
        line = lines[number]
        is_end = _KEY_END.search(line) is not None
        if not is_end and not _KEY_LINE.match(line):
            break
        mark = line[:1] if line[:1] in "+- " else ""
        lines[number] = f"{mark}[REDACTED:private-key]" if line[1:].strip() else line
        last = number
        if is_end:
            break
    return last
