"""Git's path patterns, as in ``.gitattributes``, as expressions that match in linear time."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import re2  # type: ignore[import-untyped]

_SLASH: Final = ord("/")
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_-")
_WILD: Final = b"*?[\\"
_NOT_SLASH: Final = "[^/]"
_AUTOMATON_BYTES: Final = 32 << 20
_CLASSES: Final[dict[bytes, Callable[[bytes], bool]]] = {
    b"alnum": bytes.isalnum, b"alpha": bytes.isalpha, b"digit": bytes.isdigit,
    b"lower": bytes.islower, b"space": bytes.isspace, b"upper": bytes.isupper,
    b"blank": lambda c: c in b" \t", b"cntrl": lambda c: c < b" " or c == b"\x7f",
    b"graph": lambda c: b"!" <= c <= b"~", b"print": lambda c: b" " <= c <= b"~",
    b"punct": lambda c: b"!" <= c <= b"~" and not c.isalnum(),
    b"xdigit": lambda c: c in b"0123456789abcdefABCDEF",
}  # fmt: skip


def any_of(regexes: Sequence[str]) -> Any:
    """Compile an expression for bytes that matches what one of ``regexes`` does."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    options.dot_nl = True
    options.log_errors = False
    options.max_mem = _AUTOMATON_BYTES
    return re2.compile("|".join(f"(?:{regex})" for regex in regexes).encode("ascii"), options)


def path_regex(folder: bytes, pattern: bytes) -> str | None:
    r"""Return the expression for paths that ``pattern`` matches; None if it matches none.

    Args:
        folder: In which the pattern was written, ``b""`` or with a slash at its end. It
            reaches only what lies below.
        pattern: Without a slash it is about file names, with one about paths.

    >>> path_regex(b"src/", b"*.rs")
    'src/(?:.*/)?[^/]*\\x2ers'
    """
    if pattern.endswith(b"/"):
        return None  # a folder, and only files have attributes
    if b"/" not in pattern:
        body = _translated(pattern, in_path=False)
        return None if body is None else f"{_literal(folder)}(?:.*/)?{body}"
    pattern = pattern.removeprefix(b"/")
    # Git compares what stands before the first wildcard by itself, so a `**` right after it
    # counts as one at the beginning.
    plain = next((i for i, byte in enumerate(pattern) if byte in _WILD), len(pattern))
    body = _translated(pattern[plain:], in_path=True)
    return None if body is None else _literal(folder + pattern[:plain]) + body


def _translated(pattern: bytes, *, in_path: bool) -> str | None:
    parts = []
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            end = at
            while pattern[end : end + 1] == b"*":
                end += 1
            is_border = (at == 0 or pattern[at - 1] == _SLASH) and pattern[end : end + 1] in (
                b"", b"/",
            )  # fmt: skip
            if in_path and end - at > 1 and is_border:
                parts.append("(?:.*/)?" if end < len(pattern) else ".*")
                at = end + 1
            else:
                parts.append(_NOT_SLASH + "*")
                at = end
        elif char == b"?":
            parts.append(_NOT_SLASH)
            at += 1
        elif char == b"[":
            found = _char_class(pattern, at + 1)
            if found is None:
                return None
            allowed, at = found
            parts.append("[" + "".join(map(_escaped, sorted(allowed))) + "]")
        else:
            if char == b"\\":
                at += 1
                if at == len(pattern):
                    return None
            parts.append(_literal(pattern[at : at + 1]))
            at += 1
    return "".join(parts)


def _char_class(pattern: bytes, at: int) -> tuple[set[int], int] | None:
    """Read a class whose ``[`` stands before ``at``; None where it never closes or is empty."""
    is_negated = pattern[at : at + 1] in (b"!", b"^")
    at += is_negated
    allowed: set[int] = set()
    is_first = True
    while is_first or pattern[at : at + 1] != b"]":
        is_first = False
        if pattern[at : at + 2] == b"[:" and (end := pattern.find(b":]", at)) > 0:
            belongs = _CLASSES.get(pattern[at + 2 : end])
            if belongs is None:
                return None
            allowed |= {byte for byte in range(128) if belongs(bytes([byte]))}
            at = end + 2
            continue
        at += pattern[at : at + 1] == b"\\"
        if at >= len(pattern):
            return None
        first = last = pattern[at]
        at += 1
        if pattern[at : at + 1] == b"-" and pattern[at + 1 : at + 2] not in (b"", b"]"):
            at += 1
            at += pattern[at : at + 1] == b"\\"
            if at >= len(pattern):
                return None
            last = pattern[at]
            at += 1
        allowed |= set(range(first, last + 1))
    if is_negated:
        allowed = set(range(1, 256)) - allowed
    allowed -= {_SLASH}
    return (allowed, at + 1) if allowed else None


def _literal(text: bytes) -> str:
    return "".join(chr(b) if b in _PLAIN else _escaped(b) for b in text)


def _escaped(byte: int) -> str:
    return f"\\x{byte:02x}"
