"""Boundaries at which a text may be cut: definitions, headings, hunks, paragraphs, lines."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

import numpy as np
import numpy.typing as npt

from the_block_llm.schemas import DocumentKind

LINE: Final = 1
PARAGRAPH: Final = 2
INNER: Final = 3  # a method, a hunk, a heading below the second level
OUTER: Final = 4  # a top-level definition, a heading of level 1 or 2, the patch of another file

_Rules = Sequence[tuple[int, npt.NDArray[np.bool_], re.Pattern[bytes]]]


def _rule(
    strength: int, first: bytes, pattern: bytes
) -> tuple[int, npt.NDArray[np.bool_], re.Pattern[bytes]]:
    is_first = np.isin(np.arange(256), np.frombuffer(first, np.uint8))
    return strength, is_first, re.compile(pattern)


# A line matches a rule if its first byte is in the set and the pattern matches. Code of any
# language: an indented definition or comment, after a blank line.
_CODE: Final[_Rules] = (
    _rule(INNER, b" \t", rb"[ \t]+(?:[@#/*]|async |def |class |pub |fn |func |function )"),
)
_PROSE: Final[_Rules] = (_rule(INNER, b"#", rb"#{3,6} "), _rule(OUTER, b"#", rb"#{1,2} "))
_PATCH: Final[_Rules] = (
    _rule(INNER, b"@", rb"@@ "),
    _rule(OUTER, b"-cdm", rb"--- |created |deleted |moved "),
)
_NEWLINE: Final = ord("\n")
# By first byte of a line: it continues or closes the block above.
_CONTINUES_BLOCK: Final = np.isin(np.arange(256), np.frombuffer(b" \t\r})]", np.uint8))
_NEW_PATH: Final = re.compile(rb"(?<=\n)\+\+\+ (?=b/)")
_HASH: Final = ord("#")
# By first byte of a line: indentation, a closing bracket, a comment, an attribute, the end of a
# string.
_NO_SCOPE_HEADER: Final = np.isin(np.arange(256), np.frombuffer(b" \t\r\n})]/#*@'\"<", np.uint8))
PROSE_SUFFIXES: Final = frozenset({".md", ".markdown", ".rst", ".txt", ".adoc", ""})


def boundary_strengths(text: bytes, kind: DocumentKind, source: str) -> npt.NDArray[np.int8]:
    r"""Return the strength of the boundary before each byte.

    Args:
        text: UTF-8, ``n`` bytes.
        kind: Kind of the document.
        source: Path of a file; its suffix decides between prose and code.

    Returns:
        Strength of the boundary, shape ``(n,)``; 0 where there is none.

    >>> boundary_strengths(b"# A\n\nb\n\n## C\n", "file", "x.md").tolist()
    [4, 0, 0, 0, 0, 2, 0, 0, 4, 0, 0, 0, 0]
    """
    strength = np.zeros(len(text), np.int8)
    starts, start_strengths = line_boundaries(text, kind, source)
    strength[starts] = start_strengths
    return strength


def line_boundaries(
    text: bytes, kind: DocumentKind, source: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    """Return the boundaries of :func:`boundary_strengths` in sparse form.

    Returns:
        Byte offsets at which non-empty lines begin, ascending, shape ``(lines,)``; and the
        strength of the boundary before each, of the same shape.
    """
    rules = _rules(kind, source)
    is_code = rules is _CODE
    starts, firsts, strength = _find_lines(text, is_code=is_code)
    # Lines are preselected with numpy: regular expressions then run on few of them.
    candidates = np.flatnonzero(strength >= (PARAGRAPH if is_code else LINE))
    for value, is_first, pattern in rules:
        lines = candidates[is_first[firsts[candidates]]]
        found = [pattern.match(text, start) is not None for start in starts[lines].tolist()]
        matching = lines[np.array(found, np.bool_)]
        strength[matching] = np.maximum(strength[matching], value)
    return starts, strength


class ScopeHeaders:
    """Lines that name the scope of the text that follows them.

    In a patch these are the new file names, in prose the headings, in code the unindented lines,
    such as the head of a class or function.
    """

    def __init__(self, text: bytes, kind: DocumentKind, source: str) -> None:
        """Find the headers; the arguments are those of :func:`boundary_strengths`."""
        self._text = text
        rules = _rules(kind, source)
        self._is_code = rules is _CODE
        if rules is _PATCH:
            found = [match.start() for match in _NEW_PATH.finditer(text)]
            self._starts = np.array(found, np.int64)
        else:
            codes = np.frombuffer(text, np.uint8)
            lines = np.flatnonzero(codes[:-1] == _NEWLINE) + 1
            firsts = codes[lines]
            is_header = ~_NO_SCOPE_HEADER[firsts] if self._is_code else firsts == _HASH
            self._starts = lines[is_header]

    def header_before(self, offset: int) -> tuple[int, int]:
        """Return the byte range ``[first, last)`` of the last header before ``offset``.

        The range is empty if there is none. Unindented code has no enclosing scope and therefore
        no header.
        """
        if self._is_code and self._text[offset : offset + 1] not in {b" ", b"\t", b"\n"}:
            return 0, 0
        number = int(np.searchsorted(self._starts, offset, side="left")) - 1
        if number < 0:
            return 0, 0
        first = int(self._starts[number])
        last = self._text.find(b"\n", first)
        return (first, last + 1) if 0 <= last < offset else (0, 0)


def _find_lines(
    text: bytes, *, is_code: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Find lines and paragraphs, vectorized since there are many.

    In code of any language, an unindented line after a blank line begins a top-level definition,
    including the comments and attributes before it.

    Returns:
        Offsets at which non-empty lines begin, the first byte of each, and its strength.
    """
    codes = np.frombuffer(text, np.uint8)
    newlines = np.flatnonzero(codes == _NEWLINE)
    starts = np.concatenate([np.zeros(1, np.int64), newlines + 1])
    # An empty line ends where it starts.
    ends = np.concatenate([newlines, np.full(1, len(codes))])
    is_line = ends > starts
    after_blank = np.zeros(len(starts), np.bool_)
    after_blank[1:] = ~is_line[:-1]
    if len(starts) > 1:
        after_blank[1] = False  # a blank first line separates nothing
    starts, after_blank = starts[is_line], after_blank[is_line]
    firsts = codes[starts]
    strength = np.full(len(starts), LINE, np.int8)
    strength[after_blank] = PARAGRAPH
    if is_code:
        strength[after_blank & ~_CONTINUES_BLOCK[firsts]] = OUTER
    return starts, firsts, strength


def _rules(kind: DocumentKind, source: str) -> _Rules:
    if kind == "commit":
        return _PATCH
    prose = PurePosixPath(source).suffix.lower() in PROSE_SUFFIXES
    return _PROSE if prose else _CODE
