"""Removes binary data that is written as text: base64, hexadecimal digits, arrays of bytes.

A language model learns nothing from it, and it may be nine tenths of a notebook. What is removed is
decided by content alone, and is replaced in place: lines keep their number, so patches keep their
hunks and citations their lines. Hashes, keys of one line and short test vectors stay.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import re2  # type: ignore[import-untyped]

_MIN_CHARACTERS: Final = 256
"""Shorter runs are hashes, tokens and test vectors."""
_MIN_LINES: Final = 4
_MIN_DUMP_LINES: Final = 16
_MIN_BYTE_VALUES: Final = 512
"""Smaller tables of bytes are code, such as the S-box of a cipher."""
_MIN_DISTINCT: Final = 24
_MIN_DISTINCT_HEX: Final = 10
_MIN_CASE_CHANGES: Final = 0.15
_DIGEST_DIGITS: Final = frozenset((32, 40, 56, 64, 96, 128))
_MIN_WORDS: Final = 4
"""A text that has fewer words left is nothing but the removed data."""

# What a line of each kind looks like; automata that reject nearly every text.
_BASE64_LOOK: Final = rb"[A-Za-z0-9+/]{30}[A-Za-z0-9+][A-Za-z0-9+/]{29}"
_BYTES_LOOK: Final = rb"(?:0[xX][0-9A-Fa-f]{1,2},[ \t]?){6}|(?:-?[0-9]{1,3},[ \t]?){12}"
_ESCAPES_LOOK: Final = rb"(?:\\x[0-9A-Fa-f]{2}){10}|(?:\\[0-3][0-7]{2}){10}"
_DUMP_LOOK: Final = (
    rb"\n[+ -]?[0-9A-Fa-f]{6,8}:? +(?:[0-9A-Fa-f]{2,4} ?){8}|\n[+ -]?(?::|S[0-9])[0-9A-F]{24}"
)
# Within a line, also with escaped line breaks, as notebooks and JSON hold base64.
_LONG_BASE64: Final = re.compile(rb"(?:[A-Za-z0-9+/_-]|\\[nr]){256,}+={0,2}(?:\\n)?")
_NUMBER: Final = rb"(?:0[xX][0-9A-Fa-f]{1,2}|-?[0-9]{1,3})"
_LONG_BYTES: Final = re.compile(rb"(?:" + _NUMBER + rb"[ \t]*,[ \t]*){511,}+" + _NUMBER)
_WRAPPED_LINE: Final = re.compile(
    rb"^(?P<head>[ \t\"'`#*|>,;-]*(?://+ )?)(?P<run>[A-Za-z0-9+/]{4,}={0,2})"
    rb"(?P<tail>(?:\\n)?[ \t\"'`+,\\;.)&]*\r?)$"
)
_BYTES_LINE: Final = re.compile(
    rb"^(?P<head>[^0-9-]{0,40}+)(?P<run>"
    + _NUMBER
    + rb"(?:[ \t]*,[ \t]*"
    + _NUMBER
    + rb")*+[ \t]*,?)"
    rb"(?P<tail>[ \t}\])]*[;,]?(?:[ \t]*(?:#|//|/\*).*)?\r?)$"
)
_ESCAPES_LINE: Final = re.compile(
    rb"^(?P<head>[^\"'\\]{0,80}[\"'])"
    rb"(?P<run>(?:\\x[0-9A-Fa-f]{1,2}|\\[0-3]?[0-7]{1,2}|[^\"'\\])*+)"
    rb"(?P<tail>[\"'][ \t+,;)\\]*\r?)$"
)
_DUMP_LINE: Final = re.compile(
    rb"^(?P<head>)(?P<run>[0-9A-Fa-f]{6,8}:? +(?:[0-9A-Fa-f]{2,4} {1,2}){4,}.*"
    rb"|(?::|S[0-9])[0-9A-F]{8,})(?P<tail>\r?)$"
)
_BYTE: Final = re.compile(rb"0[xX][0-9A-Fa-f]{1,2}|-?[0-9]{1,3}")
_ESCAPE: Final = re.compile(rb"\\x[0-9A-Fa-f]{1,2}|\\[0-3]?[0-7]{1,2}")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]+")
_ESCAPED_BREAK: Final = re.compile(rb"\\[nr]")
_PRIVATE_KEY: Final = b"PRIVATE KEY"  # left to the redactor, which says what it was
_HUNK: Final = b"@@ -"
_WORD: Final = re.compile(rb"[A-Za-z]{3,}")


@dataclass
class PayloadCounts:
    """Number and bytes of what was removed, by kind."""

    removed: Counter[str] = field(default_factory=Counter)
    removed_bytes: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, n_bytes: int) -> None:
        self.removed[kind] += 1
        self.removed_bytes[kind] += n_bytes


def _searcher(*patterns: bytes) -> Callable[[bytes], object | None]:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    search: Callable[[bytes], object | None] = re2.compile(b"|".join(patterns), options).search
    return search


may_hold_payload: Final = _searcher(_BASE64_LOOK, _BYTES_LOOK, _ESCAPES_LOOK, _DUMP_LOOK)
"""Search for what may be binary data; None proves that there is none."""


def remove_payloads(text: bytes, counts: PayloadCounts) -> bytes:
    """Return ``text`` with placeholders such as ``[30 kB of base64 removed]``.

    Args:
        text: A file or the hunks of a patch, in UTF-8.
        counts: Where to count what is removed.

    >>> import base64, random
    >>> picture = base64.b64encode(random.Random(0).randbytes(3000))
    >>> remove_payloads(b"![plot](data:image/png;base64," + picture + b")", PayloadCounts())
    b'![plot](data:image/png;base64,[4 kB removed])'
    """
    is_patch = text.startswith(_HUNK)
    lines = text.split(b"\n")
    markers = [line[:1] if is_patch else b"" for line in lines]
    lines = [line[len(marker) :] for line, marker in zip(lines, markers, strict=True)]
    for index, line in enumerate(lines):
        if len(line) >= _MIN_CHARACTERS and markers[index] != b"@":
            lines[index] = _replace_runs(line, counts)
    for kind, may_hold, pattern, is_payload in _KINDS:
        if may_hold(text) is None:
            continue
        for start, matches in _blocks(lines, markers, pattern):
            if _PRIVATE_KEY in lines[max(0, start - 1)]:
                continue
            groups = _wrapped_groups(matches) if pattern is _WRAPPED_LINE else [matches]
            starts = itertools.accumulate(map(len, groups), initial=start)
            for first, group in zip(starts, groups, strict=False):
                runs = [match["run"] for match in group]
                if is_payload(runs):
                    _blank_out(lines, first, group, kind, counts)
    return b"\n".join(map(bytes.__add__, markers, lines))


def _blank_out(
    lines: list[bytes],
    start: int,
    matches: Sequence[re.Match[bytes]],
    kind: str,
    counts: PayloadCounts,
) -> None:
    data = b"".join(match["run"] for match in matches)
    kind = "hex" if _HEX.fullmatch(data) else kind
    counts.add(kind, len(data))
    for offset, match in enumerate(matches):
        inside = _placeholder(len(data), kind) if offset == 0 else b""
        line = match["head"] + inside + match["tail"]
        lines[start + offset] = line if line.strip() else b""


def has_words(text: bytes) -> bool:
    """Return whether a text has enough left to read after :func:`remove_payloads`."""
    return len(set(_WORD.findall(re.sub(rb"\[[0-9.]+ k?B[a-z0-9 ]* removed\]", b"", text)))) >= (
        _MIN_WORDS
    )


def _replace_runs(line: bytes, counts: PayloadCounts) -> bytes:
    def replace(match: re.Match[bytes]) -> bytes:
        run = match[0]
        # A run may begin with the dashes after "PRIVATE KEY", or with "KEY" itself.
        start = match.start()
        is_key = _PRIVATE_KEY in line[max(0, start - 64) : start + 16]
        if is_key or not _is_binary(_ESCAPED_BREAK.sub(b"", run)):
            return run
        before = line[:start]
        kind = "hex" if _HEX.fullmatch(run) else "base64"
        counts.add(kind, len(run))
        return _placeholder(len(run), "" if before.endswith(b"base64,") else kind)

    def replace_bytes(match: re.Match[bytes]) -> bytes:
        if not _is_byte_table([match[0]]):
            return match[0]
        counts.add("bytes", len(match[0]))
        return _placeholder(len(match[0]), "bytes")

    return _LONG_BYTES.sub(replace_bytes, _LONG_BASE64.sub(replace, line))


def _placeholder(n_bytes: int, kind: str) -> bytes:
    size = f"{n_bytes / 1000:.0f} kB" if n_bytes >= 1000 else f"{n_bytes} B"
    return f"[{size} of {kind} removed]".encode() if kind else f"[{size} removed]".encode()


def _blocks(
    lines: Sequence[bytes], markers: Sequence[bytes], pattern: re.Pattern[bytes]
) -> list[tuple[int, list[re.Match[bytes]]]]:
    """Return the runs of consecutive lines that match, each with the index of its first line.

    In a patch the lines of a run are all added, all removed or all context.
    """
    blocks: list[tuple[int, list[re.Match[bytes]]]] = []
    marker: bytes | None = None
    for index, line in enumerate(lines):
        match = None if markers[index] == b"@" else pattern.match(line)
        if match is None:
            marker = None
        elif marker == markers[index]:
            blocks[-1][1].append(match)
        else:
            blocks.append((index, [match]))
            marker = markers[index]
    return blocks


def _wrapped_groups(matches: Sequence[re.Match[bytes]]) -> list[list[re.Match[bytes]]]:
    """Split lines into texts of equal width; the last line of each may be shorter."""
    groups: list[list[re.Match[bytes]]] = []
    width = 0
    for match in matches:
        n_bytes = len(match["run"])
        is_next = groups and n_bytes <= width and len(groups[-1][-1]["run"]) == width
        if is_next:
            groups[-1].append(match)
        else:
            groups.append([match])
            width = n_bytes
    return groups


def _is_binary(run: bytes) -> bool:
    """Return whether a long run without spaces is encoded data, not words."""
    distinct = len(set(run))
    if _HEX.fullmatch(run):
        return distinct >= _MIN_DISTINCT_HEX
    sample = run[:4096]
    n_changes = len(re.findall(rb"[a-z][A-Z0-9]|[A-Z0-9][a-z]", sample))
    return distinct >= _MIN_DISTINCT and n_changes >= _MIN_CASE_CHANGES * len(sample)


def _is_wrapped(runs: Sequence[bytes]) -> bool:
    """Return whether lines are one text in base64 or hexadecimal, wrapped at equal width."""
    width = len(runs[0])
    if len(runs) < _MIN_LINES or width < 40 or len(runs[-1]) > width:
        return False
    if any(len(run) != width or b"=" in run for run in runs[:-1]):
        return False
    data = b"".join(runs)
    is_list_of_digests = width in _DIGEST_DIGITS and _HEX.fullmatch(data)
    return len(data) >= _MIN_CHARACTERS and not is_list_of_digests and _is_binary(data)


def _is_byte_table(runs: Sequence[bytes]) -> bool:
    if sum(run.count(b",") for run in runs) < _MIN_BYTE_VALUES - 1:
        return False
    values = {value for run in runs for value in _BYTE.findall(run)}
    numbers = {int(value, 0 if b"x" in value.lower() else 10) for value in values}
    return len(numbers) >= _MIN_DISTINCT and all(-129 < number < 256 for number in numbers)


def _is_escaped_data(runs: Sequence[bytes]) -> bool:
    data = b"".join(runs)
    escapes = _ESCAPE.findall(data)
    return len(escapes) >= _MIN_CHARACTERS and 2 * sum(map(len, escapes)) >= len(data)


def _is_dump(runs: Sequence[bytes]) -> bool:
    return len(runs) >= _MIN_DUMP_LINES


_KINDS: Final = (
    ("base64", _searcher(_BASE64_LOOK), _WRAPPED_LINE, _is_wrapped),
    ("bytes", _searcher(_BYTES_LOOK), _BYTES_LINE, _is_byte_table),
    ("bytes", _searcher(_ESCAPES_LOOK), _ESCAPES_LINE, _is_escaped_data),
    ("hex dump", _searcher(_DUMP_LOOK), _DUMP_LINE, _is_dump),
)
