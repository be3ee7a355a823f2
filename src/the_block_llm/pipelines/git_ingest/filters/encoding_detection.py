r"""Decodes bytes to text, exactly or not at all: never to plausible letters that are wrong.

UTF-8 and byte order marks speak for themselves. An encoding that the file or the commit declares is
taken if the text is plausible under it; otherwise the letters must prove the encoding
(:mod:`legacy_encodings`). Single bytes that remain undecided in a text that is otherwise readable
are written as ``\xNN``; a text with more of them is undecodable.
"""

import codecs
import re
from typing import Final, NamedTuple

from charset_normalizer.utils import any_specified_encoding

from the_block_llm.pipelines.git_ingest.filters.legacy_encodings import (
    determine_encoding,
)

ESCAPES: Final = "escapes"
r"""In the name of an encoding: bytes that could not be decoded are written as ``\xNN``."""
_BOMS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Control characters that text in a legacy encoding never has and compressed images always have.
# Tabs, line and page breaks are text; so are the escapes of ISO 2022 and the end-of-file character
# of CP/M and DOS.
_BINARY_CONTROLS: Final = re.compile(rb"[\x00-\x06\x0e-\x19\x1c-\x1f]")
# The shift sequences of ISO 2022, whose text is ASCII byte by byte.
_ISO_2022: Final = b"\x1b$"
_ISO_2022_ENCODINGS: Final = ("iso2022_jp", "iso2022_jp_2", "iso2022_jp_ext", "iso2022_kr")
_SEQUENCE: Final = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")
_HIGH_BYTES: Final = re.compile(rb"[\x80-\xff]+")
_MIN_SEQUENCES: Final = 3
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]")
_MIN_VALID_PER_ESCAPE: Final = 4
# A foreign name in a file of English is worth an escape; a file of escapes teaches nothing.
_MAX_ESCAPED_SHARE: Final = 0.02
_MAX_DECLARATION_BYTES: Final = 4096


class DecodedText(NamedTuple):
    """Text, and the name of its encoding.

    The name is one of Python's codecs. In a text of several, ``utf-8+cp1252`` means that lines
    that are not UTF-8 are in cp1252, and ``utf-8+escapes`` that their bytes are escaped.
    """

    text: str
    encoding: str


def decode(data: bytes) -> DecodedText | None:
    r"""Decode ``data``, or return None if its encoding cannot be determined beyond doubt.

    A byte order mark is kept in the text as U+FEFF.

    >>> decode("naïve".encode())
    DecodedText(text='naïve', encoding='utf-8')
    >>> decode(b"\xff\xfea\x00")
    DecodedText(text='\ufeffa', encoding='utf-16-le')
    """
    encoding = find_encoding(data)
    return None if encoding is None else DecodedText(decode_as(data, encoding), encoding)


def needs_decoding(data: bytes) -> bool:
    """Return False if ``data`` is ASCII, byte by byte and in meaning."""
    return not data.isascii() or _ISO_2022 in data


def find_encoding(data: bytes, declared: str | None = None) -> str | None:
    """Return the encoding of ``data``, as in :class:`DecodedText`, or None.

    Args:
        data: The whole text.
        declared: The encoding that is declared elsewhere, as in the header of a commit.
    """
    if looks_binary(data):
        return None
    if not needs_decoding(data):
        return "utf-8"
    for bom, name in _BOMS:
        if data.startswith(bom):
            return name if _decodes(data, name) else None
    if _ISO_2022 in data:
        return next((name for name in _ISO_2022_ENCODINGS if _decodes(data, name)), None)
    if _decodes(data, "utf-8"):
        return "utf-8"
    if _BINARY_CONTROLS.search(data):
        return None
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    foreign = [line for line in lines if not _decodes(line, "utf-8")]
    is_partly_utf8 = _is_utf8(
        b"\n".join(line for line in lines if _decodes(line, "utf-8")), b"\n".join(foreign)
    )
    text = b"\n".join(foreign) if is_partly_utf8 else data
    declared = declared or any_specified_encoding(data[:_MAX_DECLARATION_BYTES])
    encoding = determine_encoding(text, _codec_name(declared))
    if encoding is None:
        n_escaped = sum(line.count("\\x") for line in map(_escape, foreign))
        return f"utf-8+{ESCAPES}" if n_escaped <= _MAX_ESCAPED_SHARE * len(data) else None
    return f"utf-8+{encoding}" if is_partly_utf8 else encoding


def is_surely_utf8(hunks: bytes) -> bool:
    """Return whether lines are UTF-8 by more than chance, though they are few."""
    return _ISO_2022 not in hunks and _decodes(hunks, "utf-8") and _is_utf8(hunks, b"")


def decode_as(data: bytes, encoding: str) -> str:
    """Decode a text, or lines of it, with the encoding that :func:`find_encoding` has found.

    Raises:
        UnicodeError: The lines are from another text.
    """
    primary, _, secondary = encoding.partition("+")
    if not secondary:
        return data.decode(primary)
    return "\n".join(_decode_line(line, primary, secondary) for line in data.split(b"\n"))


def _decode_line(line: bytes, primary: str, secondary: str) -> str:
    try:
        return line.decode(primary)
    except UnicodeDecodeError:
        return _escape(line) if secondary == ESCAPES else line.decode(secondary)


def _escape(line: bytes) -> str:
    r"""Decode a line that is not valid UTF-8, with ``\xNN`` for what is not.

    Letters of another encoding can be valid UTF-8 by chance: all bytes are escaped, unless nearly
    all of the line is UTF-8, as where a tool has cut it in the middle of a character.
    """
    n_valid = len(_NOT_ASCII.findall(line.decode("utf-8", "ignore")))
    text = line.decode("utf-8", "backslashreplace")
    is_utf8 = n_valid >= _MIN_VALID_PER_ESCAPE * (text.count("\\x") - line.count(b"\\x"))
    return text if is_utf8 else line.decode("ascii", "backslashreplace")


def looks_binary(data: bytes) -> bool:
    """Return whether the start holds a NUL, as git tests it, and no UTF-16 or UTF-32 BOM."""
    head = data[:8000]
    return b"\0" in head and not head.startswith(tuple(bom for bom, _ in _BOMS))


def decode_path(path: bytes) -> str:
    r"""Return a path as text; bytes that are not UTF-8 become ``\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def decode_message(message: bytes, declared: str = "") -> str:
    r"""Return a message, name or address as text; bytes that cannot be decoded become ``\xNN``.

    Args:
        message: The bytes as the commit holds them.
        declared: The encoding in the header of the commit; empty if it has none, which means
            UTF-8. It is not believed if the text is UTF-8, or not plausible under it.
    """
    if not needs_decoding(message):
        return message.decode("ascii")
    return decode_as(message, find_encoding(message, declared) or f"utf-8+{ESCAPES}")


def _is_utf8(lines: bytes, foreign: bytes) -> bool:
    """Return whether lines that are valid UTF-8 are so by more than chance.

    Two letters of a multi-byte encoding are valid UTF-8 now and then; whole sentences are not.
    """
    sequences = _SEQUENCE.findall(lines)
    n_foreign = len(_HIGH_BYTES.findall(foreign))
    return any(len(s) > 2 for s in sequences) or len(sequences) > max(_MIN_SEQUENCES, n_foreign / 8)


def _codec_name(declared: str | None) -> str | None:
    try:
        return codecs.lookup(declared or "utf-8").name.replace("-", "_")
    except LookupError:
        return None


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        return data.decode(encoding).encode(encoding) == data
    except UnicodeError:
        return False
