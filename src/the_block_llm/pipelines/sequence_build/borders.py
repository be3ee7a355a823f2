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

_Rules = Sequence[tuple[int, re.Pattern[bytes]]]


def _rule(strength: int, pattern: bytes) -> tuple[int, re.Pattern[bytes]]:
    return strength, re.compile(pattern, re.MULTILINE)


_ANY: Final[_Rules] = (
    _rule(LINE, rb"^(?=[^\n])"),
    _rule(PARAGRAPH, rb"(?<=\n\n)(?=[^\n])"),
)
# Code of any language: after a blank line, what is not indented begins something of its own,
# comments and attributes before a definition included.
_CODE: Final[_Rules] = (
    *_ANY,
    _rule(
        INNER,
        rb"(?<=\n\n)(?=[ \t]+(?:[@#/*]|async |def |class |pub |fn |func |function ))",
    ),
    _rule(OUTER, rb"(?<=\n\n)(?=[^\s})\]])"),
)
_PROSE: Final[_Rules] = (
    *_ANY,
    _rule(INNER, rb"^(?=#{3,6} )"),
    _rule(OUTER, rb"^(?=#{1,2} )"),
)
_PATCH: Final[_Rules] = (
    *_ANY,
    _rule(INNER, rb"^(?=@@ )"),
    _rule(OUTER, rb"^(?=--- |created |deleted |moved )"),
)
_PROSE_SUFFIXES: Final = frozenset({".md", ".markdown", ".rst", ".txt", ".adoc", ""})


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
    for value, pattern in _rules(kind, source):
        for match in pattern.finditer(text):
            strength[match.start()] = max(value, strength[match.start()])
    return strength


def _rules(kind: DocumentKind, source: str) -> _Rules:
    if kind == "commit":
        return _PATCH
    prose = PurePosixPath(source).suffix.lower() in _PROSE_SUFFIXES
    return _PROSE if prose else _CODE
