"""Translates the path patterns of ``.gitattributes`` to RE2 expressions, matched in linear time.

Patterns follow https://git-scm.com/docs/gitignore#_pattern_format.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import re2  # type: ignore[import-untyped]

_SLASH: Final = ord("/")
_LITERAL_BYTES: Final = frozenset(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_-"
)
_WILDCARDS: Final = b"*?[\\"
_NOT_SLASH: Final = "[^/]"
_MAX_AUTOMATON_BYTES: Final = 32 << 20
_CHARACTER_CLASSES: Final[dict[bytes, Callable[[bytes], bool]]] = {
    b"alnum": bytes.isalnum, b"alpha": bytes.isalpha, b"digit": bytes.isdigit,
    b"lower": bytes.islower, b"space": bytes.isspace, b"upper": bytes.isupper,
    b"blank": lambda c: c in b" \t", b"cntrl": lambda c: c < b" " or c == b"\x7f",
    b"graph": lambda c: b"!" <= c <= b"~", b"print": lambda c: b" " <= c <= b"~",
    b"punct": lambda c: b"!" <= c <= b"~" and not c.isalnum(),
    b"xdigit": lambda c: c in b"0123456789abcdefABCDEF",
}  # fmt: skip


def compile_any(regexes: Sequence[str]) -> Any:
    """Compile an expression over bytes that matches what any of ``regexes`` matches."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    options.dot_nl = True
    options.log_errors = False
    options.max_mem = _MAX_AUTOMATON_BYTES
    return re2.compile("|".join(f"(?:{regex})" for regex in regexes).encode("ascii"), options)


def path_regex(folder: bytes, pattern: bytes) -> str | None:
    r"""Return an expression for the paths that ``pattern`` matches, or None if it matches none.

    Args:
        folder: Folder of the ``.gitattributes``, ``b""`` or with a trailing slash. The pattern
            applies to files below it.
        pattern: Matches file names, or paths if it contains a slash.

    >>> path_regex(b"src/", b"*.rs")
    'src/(?:.*/)?[^/]*\\x2ers'
    """
    if pattern.endswith(b"/"):
        return None  # matches folders, but only files have attributes
    if b"/" not in pattern:
        body = _translate(pattern, in_path=False)
        return None if body is None else f"{_escape_literal(folder)}(?:.*/)?{body}"
    pattern = pattern.removeprefix(b"/")
    # git compares the part before the first wildcard separately, so a `**` right after it
    # counts as one at the start.
    plain = next((i for i, byte in enumerate(pattern) if byte in _WILDCARDS), len(pattern))
    body = _translate(pattern[plain:], in_path=True)
    return None if body is None else _escape_literal(folder + pattern[:plain]) + body


def _translate(pattern: bytes, *, in_path: bool) -> str | None:
    parts = []
    position = 0
    while position < len(pattern):
        char = pattern[position : position + 1]
        if char == b"*":
            end = position
            while pattern[end : end + 1] == b"*":
                end += 1
            at_start = position == 0 or pattern[position - 1] == _SLASH
            at_end = pattern[end : end + 1] in (b"", b"/")
            if in_path and end - position > 1 and at_start and at_end:
                parts.append("(?:.*/)?" if end < len(pattern) else ".*")
                position = end + 1
            else:
                parts.append(_NOT_SLASH + "*")
                position = end
        elif char == b"?":
            parts.append(_NOT_SLASH)
            position += 1
        elif char == b"[":
            found = _parse_character_class(pattern, position + 1)
            if found is None:
                return None
            members, position = found
            parts.append("[" + "".join(map(_escape_byte, sorted(members))) + "]")
        else:
            if char == b"\\":
                position += 1
                if position == len(pattern):
                    return None
            parts.append(_escape_literal(pattern[position : position + 1]))
            position += 1
    return "".join(parts)


def _parse_character_class(pattern: bytes, position: int) -> tuple[set[int], int] | None:
    """Parse a character class.

    Args:
        pattern: The whole pattern.
        position: Index after the opening ``[``.

    Returns:
        The allowed bytes and the index after the closing ``]``; None if the class is unclosed,
        invalid or empty.
    """
    is_negated = pattern[position : position + 1] in (b"!", b"^")
    position += is_negated
    members: set[int] = set()
    is_first = True
    while is_first or pattern[position : position + 1] != b"]":
        is_first = False
        if pattern[position : position + 2] == b"[:" and (end := pattern.find(b":]", position)) > 0:
            is_in_class = _CHARACTER_CLASSES.get(pattern[position + 2 : end])
            if is_in_class is None:
                return None
            members |= {byte for byte in range(128) if is_in_class(bytes([byte]))}
            position = end + 2
            continue
        position += pattern[position : position + 1] == b"\\"
        if position >= len(pattern):
            return None
        first = last = pattern[position]
        position += 1
        is_range = pattern[position : position + 1] == b"-"
        if is_range and pattern[position + 1 : position + 2] not in (b"", b"]"):
            position += 1
            position += pattern[position : position + 1] == b"\\"
            if position >= len(pattern):
                return None
            last = pattern[position]
            position += 1
        members |= set(range(first, last + 1))
    if is_negated:
        members = set(range(1, 256)) - members
    members -= {_SLASH}
    return (members, position + 1) if members else None


def _escape_literal(text: bytes) -> str:
    return "".join(chr(b) if b in _LITERAL_BYTES else _escape_byte(b) for b in text)


def _escape_byte(byte: int) -> str:
    return f"\\x{byte:02x}"
