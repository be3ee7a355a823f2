"""Finds and masks blocks of private keys."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

PRIVATE_KEY: Final = (
    r"-----(?:BEGIN|END) (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-\d"
    r"|Private-Lines: \d"
)
"""Source of a pattern of the lines around the body of a private key."""

_BEGIN: Final = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-\d"
    r"|Private-Lines: \d+"
)
_END: Final = re.compile(r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|Private-MAC:")
_DECORATION: Final = r"[\s\"'`#*/|>+,;()\\-]*"
# Base64 of at least 40 characters, alone on a line, or quoted in code.
_BODY: Final = re.compile(
    rf"^{_DECORATION}(?:b|@|R)?[\"'`(]*[A-Za-z0-9+/]{{40,}}={{0,2}}(?:\\[rn]|\\)*[\"'`]?{_DECORATION}$"
)
_SHORT_BODY: Final = re.compile(
    rf"^{_DECORATION}[A-Za-z0-9+/]+={{0,2}}(?:\\[rn]|\\)*[\"'`]?{_DECORATION}$"
)
_HEADER: Final = re.compile(
    rf"^{_DECORATION}(?:(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset|Encryption|Public-Lines"
    rf"|Private-Lines|Key-Derivation|Argon2-\w+): ?[^\n]*)?(?:\\[rn])*{_DECORATION}$"
)
_CHECKSUM: Final = re.compile(rf"^{_DECORATION}=[A-Za-z0-9+/]{{4}}(?:\\[rn])*{_DECORATION}$")
_INLINE_BODY: Final = re.compile(r"(?:\\[rn]|[\s\"'+\\,]){0,8}[A-Za-z0-9+/=]{16}")
_MIN_DISTINCT_CHARACTERS: Final = 16
_MAX_LINES: Final = 400
_MAX_HEADERS: Final = 8
_PLACEHOLDER: Final = "[REDACTED:private-key]"


class KeyBlock(NamedTuple):
    """Lines of a private key, from 0, both inclusive, and where it begins and ends on them."""

    first: int
    last: int
    start: int
    """First character of the key on its first line."""
    end: int | None
    """End of the key on its only line; None if it takes whole lines."""
    value: str


def find_key(lines: Sequence[str], line_number: int) -> KeyBlock | None:
    """Return the private key around ``lines[line_number]``, which holds its BEGIN or END line.

    The words of the BEGIN line alone, as in a constant of a program, are no key: at least one line
    of base64 must follow, or precede an END line whose beginning is outside the patch.
    """
    line = lines[line_number]
    begin = _BEGIN.search(line)
    if begin is None:
        return _key_before_end(lines, line_number)
    end = _END.search(line, begin.end())
    if _INLINE_BODY.match(line, begin.end()):
        stop = end.end() if end else len(line)
        return KeyBlock(line_number, line_number, begin.start(), stop, line[begin.start() : stop])
    last = None if end else _last_line(lines, line_number)
    if last is None:
        return None
    body = lines[line_number + 1 : last + 1]
    return _block(line_number, last, begin.start(), body)


def mask_key(lines: list[str], key: KeyBlock) -> None:
    """Mask a key without changing the number of lines, so that hunk headers remain valid."""
    line = lines[key.first]
    if key.end is not None:
        lines[key.first] = line[: key.start] + _PLACEHOLDER + line[key.end :]
        return
    if key.start >= 0:
        lines[key.first] = line[: key.start] + _PLACEHOLDER
    for index in range(key.first + (key.start >= 0), key.last + 1):
        prefix = lines[index][:1] if lines[index][:1] in "+- " else ""
        if lines[index][1:].strip():
            lines[index] = f"{prefix}{_PLACEHOLDER}"


def _last_line(lines: Sequence[str], first: int) -> int | None:
    """Return the last line of the key that begins in line ``first``, or None without a body."""
    last = None
    n_headers = 0
    for index in range(first + 1, min(first + _MAX_LINES, len(lines))):
        line = lines[index]
        if _END.search(line):
            return index if last is not None else None
        if _BODY.match(line) or (last is not None and _CHECKSUM.match(line)):
            last = index
        elif _HEADER.match(line) and n_headers < _MAX_HEADERS:
            n_headers += 1
        elif last is not None and _SHORT_BODY.match(line) and _ends_key(lines, index + 1):
            last = index
        else:
            break
    return last


def _ends_key(lines: Sequence[str], index: int) -> bool:
    """Return whether the key ends at ``index``: its END line, checksum, or the end of the text."""
    return index >= len(lines) or bool(
        not lines[index].strip() or _END.search(lines[index]) or _CHECKSUM.match(lines[index])
    )


def _key_before_end(lines: Sequence[str], end: int) -> KeyBlock | None:
    first = end
    while first > 0 and end - first < _MAX_LINES:
        line = lines[first - 1]
        is_body = _BODY.match(line) or (first == end and _SHORT_BODY.match(line))
        if not (is_body or _CHECKSUM.match(line)):
            break
        first -= 1
    if first == end or not _END.search(lines[end]):
        return None
    return _block(first, end, -1, lines[first:end])


def _block(first: int, last: int, start: int, body: Sequence[str]) -> KeyBlock | None:
    body = [line for line in body if not _END.search(line)]
    value = "\n".join(line.strip(" \t+-") for line in body)
    # Documentation fills a key with X.
    is_filled = len(set("".join(body))) < _MIN_DISTINCT_CHARACTERS
    return None if is_filled else KeyBlock(first, last, start, None, value)


def may_bound_key(line: bytes) -> bool:
    """Return whether the line may be the first or the last of a private key."""
    return b"PRIVATE KEY" in line or b"PuTTY-User" in line or b"Private-Lines" in line
