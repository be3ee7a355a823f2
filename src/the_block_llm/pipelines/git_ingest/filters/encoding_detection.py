"""Decodes bytes to text without loss: the text encodes back to the same bytes."""

import codecs
import re
from typing import Final, NamedTuple

import charset_normalizer

# Detection reads a sample; its result is then tried on all bytes.
_SAMPLE_BYTES: Final = 1 << 16
# Control characters that text in a legacy encoding never has and compressed images always have.
# Tabs, line and page breaks are text; so are the escapes of ISO 2022 and the end-of-file character
# of CP/M and DOS.
_BINARY_CONTROLS: Final = re.compile("[\x00-\x06\x0e-\x19\x1c-\x1f]")
_BOMS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LATIN_ENCODINGS: Final = frozenset({
    "cp1250", "cp1252", "cp1254", "cp1257", "cp1258", "cp437", "cp775", "cp850", "cp858",
    "iso8859_10", "iso8859_13", "iso8859_14", "iso8859_15", "iso8859_16", "iso8859_2",
    "iso8859_3", "iso8859_4", "iso8859_9", "latin_1", "mac_latin2", "mac_roman",
})  # fmt: skip


class DecodedText(NamedTuple):
    """Text, and the encoding that turns it back into the original bytes."""

    text: str
    encoding: str


def decode(data: bytes) -> DecodedText | None:
    r"""Decode ``data``, or return None if no encoding round-trips to the same bytes.

    A byte order mark is kept in the text as U+FEFF.

    >>> decode("naïve".encode())
    DecodedText(text='naïve', encoding='utf-8')
    >>> decode(b"\xff\xfea\x00")
    DecodedText(text='\ufeffa', encoding='utf-16-le')
    """
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        try:
            return DecodedText(data.decode("utf-8"), "utf-8")
        except UnicodeDecodeError:
            pass
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return _decode_lossless(data, encoding)
    if looks_binary(data):
        return None
    # A sample may end inside a character, so each guess is verified on all bytes.
    for encoding in _guess_encodings(data[:_SAMPLE_BYTES]):
        decoded = _decode_lossless(data, encoding)
        if decoded is not None and _BINARY_CONTROLS.search(decoded.text) is None:
            return decoded
    return None


def _guess_encodings(sample: bytes) -> list[str]:
    matches = charset_normalizer.from_bytes(sample)
    best = matches.best()
    if best is None:
        return []
    possible = {name for match in matches for name in match.could_be_from_charset}
    # A few accents fit a dozen code pages equally well. The Western European one is most likely.
    if best.encoding in _LATIN_ENCODINGS and "cp1252" in possible:
        return ["cp1252", best.encoding]
    return [best.encoding]


def looks_binary(data: bytes) -> bool:
    """Return whether the start holds a NUL, as git tests it, and no UTF-16 or UTF-32 BOM."""
    head = data[:8000]
    return b"\0" in head and not head.startswith(tuple(bom for bom, _ in _BOMS))


def decode_path(path: bytes) -> str:
    r"""Return a path as text; bytes that are not UTF-8 become ``\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def decode_message(message: bytes) -> str:
    r"""Return a message, name or address as text; if no encoding fits, bytes become ``\xNN``."""
    if message.isascii():
        return message.decode("ascii")
    decoded = decode(message)
    return message.decode("utf-8", "backslashreplace") if decoded is None else decoded.text


def _decode_lossless(data: bytes, encoding: str) -> DecodedText | None:
    try:
        text = data.decode(encoding)
        if text.encode(encoding) == data:
            return DecodedText(text, encoding)
    except UnicodeError:
        pass
    return None
