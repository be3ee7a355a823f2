"""Where a text may be cut: before a definition, a heading, a hunk, a paragraph, a line."""

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
OUTER: Final = 4  # a top-level definition, a chapter, the patch of another file

_Rules = Sequence[tuple[int, npt.NDArray[np.bool_], re.Pattern[bytes]]]


def _rule(
    strength: int, first: bytes, pattern: bytes
) -> tuple[int, npt.NDArray[np.bool_], re.Pattern[bytes]]:
    is_first = np.isin(np.arange(256), np.frombuffer(first, np.uint8))
    return strength, is_first, re.compile(pattern)


# By first byte of a line, what it must go on with. Code of any language: a method or a comment
# inside something, after a blank line.
_CODE: Final[_Rules] = (
    _rule(INNER, b" \t", rb"[ \t]+(?:[@#/*]|async |def |class |pub |fn |func |function )"),
)
_PROSE: Final[_Rules] = (_rule(INNER, b"#", rb"#{3,6} "), _rule(OUTER, b"#", rb"#{1,2} "))
_PATCH: Final[_Rules] = (
    _rule(INNER, b"@", rb"@@ "),
    _rule(OUTER, b"-cdm", rb"--- |created |deleted |moved "),
)
_NEWLINE: Final = ord("\n")
# By first byte: a line that begins so belongs to what is above it.
_INSIDE: Final = np.isin(np.arange(256), np.frombuffer(b" \t\r})]", np.uint8))
_NEW_NAME: Final = re.compile(rb"(?<=\n)\+\+\+ (?=b/)")
_HASH: Final = ord("#")
# By first byte: a line that closes something, a comment, an attribute, a string's end.
_TELLS_NO_PLACE: Final = np.isin(np.arange(256), np.frombuffer(b" \t\r\n})]/#*@'\"<", np.uint8))
PROSE_SUFFIXES: Final = frozenset({".md", ".markdown", ".rst", ".txt", ".adoc", ""})


def borders(text: bytes, kind: DocumentKind, source: str) -> npt.NDArray[np.int8]:
    r"""Say how good a cut before each byte would be.

    Args:
        text: UTF-8, ``n`` bytes.
        kind: Of the document.
        source: Path of a file, whose suffix tells prose from code.

    Returns:
        Strength of a cut, shape ``(n,)``, 0 where there is no border.

    >>> borders(b"# A\n\nb\n\n## C\n", "file", "x.md").tolist()
    [4, 0, 0, 0, 0, 2, 0, 0, 4, 0, 0, 0, 0]
    """
    strength = np.zeros(len(text), np.int8)
    starts, of_starts = border_lines(text, kind, source)
    strength[starts] = of_starts
    return strength


def border_lines(
    text: bytes, kind: DocumentKind, source: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    """The same as :func:`borders`, of the bytes alone that have a border before them.

    Returns:
        Where lines begin that are not empty, ascending, shape ``(lines,)``; and the strength of
        a cut before each, of the same shape.
    """
    rules = _rules(kind, source)
    in_code = rules is _CODE
    starts, firsts, strength = _lines(text, code=in_code)
    # Numpy picks the lines, so that patterns are tried on few of them.
    tried = np.flatnonzero(strength >= (PARAGRAPH if in_code else LINE))
    for value, is_first, pattern in rules:
        lines = tried[is_first[firsts[tried]]]
        found = [pattern.match(text, start) is not None for start in starts[lines].tolist()]
        matching = lines[np.array(found, np.bool_)]
        strength[matching] = np.maximum(strength[matching], value)
    return starts, strength


class Signposts:
    """The lines of a text that say where in it one is.

    Of a patch these are the names of files, of prose its headings, of code what is not indented
    and so holds what follows: the head of a class, an implementation or a function.
    """

    def __init__(self, text: bytes, kind: DocumentKind, source: str) -> None:
        """Find them; see :func:`borders` for what is given."""
        self._text = text
        rules = _rules(kind, source)
        self._in_code = rules is _CODE
        if rules is _PATCH:
            found = [match.start() for match in _NEW_NAME.finditer(text)]
            self._starts = np.array(found, np.int64)
        else:
            at = np.frombuffer(text, np.uint8)
            lines = np.flatnonzero(at[:-1] == _NEWLINE) + 1
            firsts = at[lines]
            telling = ~_TELLS_NO_PLACE[firsts] if self._in_code else firsts == _HASH
            self._starts = lines[telling]

    def before(self, offset: int) -> tuple[int, int]:
        """The bytes ``[first, last)`` of the last such line before ``offset``; empty for none.

        What is not indented stands in nothing, so code that goes on so has none.
        """
        if self._in_code and self._text[offset : offset + 1] not in {b" ", b"\t", b"\n"}:
            return 0, 0
        number = int(np.searchsorted(self._starts, offset, side="left")) - 1
        if number < 0:
            return 0, 0
        first = int(self._starts[number])
        last = self._text.find(b"\n", first)
        return (first, last + 1) if 0 <= last < offset else (0, 0)


def _lines(
    text: bytes, *, code: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Lines and paragraphs; these are many, so no Python loop goes over them.

    In code of any language, what is not indented after a blank line begins something of its
    own, the comments and attributes before a definition included.

    Returns:
        Where lines begin that are not empty, the first byte of each, and its strength.
    """
    at = np.frombuffer(text, np.uint8)
    newlines = np.flatnonzero(at == _NEWLINE)
    starts = np.concatenate([np.zeros(1, np.int64), newlines + 1])
    # A line is empty where the next begins one byte after it.
    ends = np.concatenate([newlines, np.full(1, len(at))])
    is_line = ends > starts
    after_blank = np.zeros(len(starts), np.bool_)
    after_blank[1:] = ~is_line[:-1]
    if len(starts) > 1:
        after_blank[1] = False  # what stands first begins anyway
    starts, after_blank = starts[is_line], after_blank[is_line]
    firsts = at[starts]
    strength = np.full(len(starts), LINE, np.int8)
    strength[after_blank] = PARAGRAPH
    if code:
        strength[after_blank & ~_INSIDE[firsts]] = OUTER
    return starts, firsts, strength


def _rules(kind: DocumentKind, source: str) -> _Rules:
    if kind == "commit":
        return _PATCH
    prose = PurePosixPath(source).suffix.lower() in PROSE_SUFFIXES
    return _PROSE if prose else _CODE
