"""Bytes to text without losing one: what is decoded encodes back to the same bytes."""

import codecs
import re
from typing import Final, NamedTuple

import charset_normalizer

# Detection reads a sample; the result is then tried on the whole.
_SAMPLE_BYTES: Final = 1 << 16
# In no text of an old code page, but in every compressed picture. Tabs, line and page ends are
# text; so are the escapes of ISO 2022 and the mark that ended a file of CP/M and DOS.
_CONTROLS: Final = re.compile("[\x00-\x06\x0e-\x19\x1c-\x1f]")
_UTF16_BOMS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LATIN_PAGES: Final = frozenset({
    "cp1250", "cp1252", "cp1254", "cp1257", "cp1258", "cp437", "cp775", "cp850", "cp858",
    "iso8859_10", "iso8859_13", "iso8859_14", "iso8859_15", "iso8859_16", "iso8859_2",
    "iso8859_3", "iso8859_4", "iso8859_9", "latin_1", "mac_latin2", "mac_roman",
})  # fmt: skip


class Decoded(NamedTuple):
    """Text and the encoding that turns it back into the bytes it came from."""

    text: str
    encoding: str


def decode(data: bytes) -> Decoded | None:
    r"""Decode ``data``; None where no encoding gives it back byte for byte.

    A byte order mark stays in the text as U+FEFF, so that nothing is lost.

    >>> decode("naïve".encode())
    Decoded(text='naïve', encoding='utf-8')
    >>> decode(b"\xff\xfea\x00")
    Decoded(text='\ufeffa', encoding='utf-16-le')
    """
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        try:
            return Decoded(data.decode("utf-8"), "utf-8")
        except UnicodeDecodeError:
            pass
    for mark, encoding in _UTF16_BOMS:
        if data.startswith(mark):
            return _if_lossless(data, encoding)
    if looks_binary(data):
        return None
    # A sample may end inside a character; then the guess fails on the whole or is right.
    for encoding in _guesses(data[:_SAMPLE_BYTES]):
        decoded = _if_lossless(data, encoding)
        if decoded is not None and _CONTROLS.search(decoded.text) is None:
            return decoded
    return None


def _guesses(sample: bytes) -> list[str]:
    matches = charset_normalizer.from_bytes(sample)
    best = matches.best()
    if best is None:
        return []
    possible = {name for match in matches for name in match.could_be_from_charset}
    # A few accents fit a dozen code pages equally well. The western one is the likely one.
    if best.encoding in _LATIN_PAGES and "cp1252" in possible:
        return ["cp1252", best.encoding]
    return [best.encoding]


def looks_binary(data: bytes) -> bool:
    """True where the beginning holds a NUL, git's own test, and no UTF-16 or UTF-32 mark."""
    head = data[:8000]
    return b"\0" in head and not head.startswith(tuple(mark for mark, _ in _UTF16_BOMS))


def decode_path(path: bytes) -> str:
    r"""Path as text; bytes that are not UTF-8 are written ``\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def decode_message(message: bytes) -> str:
    r"""Commit message, name or address as text; where no encoding fits, bytes as ``\xNN``."""
    if message.isascii():
        return message.decode("ascii")
    decoded = decode(message)
    return message.decode("utf-8", "backslashreplace") if decoded is None else decoded.text


def _if_lossless(data: bytes, encoding: str) -> Decoded | None:
    try:
        text = data.decode(encoding)
        if text.encode(encoding) == data:
            return Decoded(text, encoding)
    except UnicodeError:
        pass
    return None
