"""Decodes patches, whose two sides may be in different encodings.

Lines of a patch are too few to prove an encoding. The whole files before and after the change are,
so they are read for the few patches that are not plainly UTF-8.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from the_block_llm.pipelines.git_ingest.filters.encoding_detection import (
    ESCAPES,
    DecodedText,
    decode_as,
    find_encoding,
    is_surely_utf8,
    needs_decoding,
)
from the_block_llm.pipelines.git_ingest.filters.legacy_encodings import ENCODINGS

_HUNK_HEADER: Final = re.compile(rb"^(@@ -[0-9,]+ \+[0-9,]+ @@)([^\n]*)", re.MULTILINE)
_MAX_CHARACTER_BYTES: Final = 4
_OLD: Final = (b" ", b"-")
_NEW: Final = (b" ", b"+")


class FileEncodings(NamedTuple):
    """Encodings of the whole files before and after a change.

    None where a file is undecodable, ``UNREAD`` where there is none or it is too large.
    """

    old: str | None
    new: str | None


UNREAD: Final = ""


def decode_patch(hunks: bytes, find_encodings: Callable[[], FileEncodings]) -> DecodedText | None:
    """Decode the hunks of a file, or return None if a line cannot be decoded beyond doubt.

    The encoding is that of both sides, or of the old and the new side, as in ``cp1252/utf-8``.

    Args:
        hunks: Hunks as git prints them.
        find_encodings: Determines the encodings of the files before and after the change.
    """
    if not needs_decoding(hunks):
        return DecodedText(hunks.decode("ascii"), "utf-8")
    if is_surely_utf8(hunks):
        return DecodedText(hunks.decode("utf-8"), "utf-8")
    lines = hunks.split(b"\n")
    old, new = find_encodings()
    old_lines, new_lines = _lines_with(lines, _OLD), _lines_with(lines, _NEW)
    old = find_encoding(b"\n".join(old_lines)) if old == UNREAD else old
    new = find_encoding(b"\n".join(new_lines)) if new == UNREAD else new
    if _is_undecided(old) and not _is_undecided(new):
        old = _matching_encoding(old_lines, new_lines, new) or old
    elif _is_undecided(new) and not _is_undecided(old):
        new = _matching_encoding(new_lines, old_lines, old) or new
    if old is None or new is None:
        return None
    try:
        text = "\n".join(_decode_line(line, old, new) for line in lines)
    except UnicodeError:
        return None
    names = (
        name
        for name, part in ((old, old_lines), (new, new_lines))
        if not all(map(bytes.isascii, part))
    )
    return DecodedText(text, "/".join(dict.fromkeys(names)) or "utf-8")


def _lines_with(lines: Sequence[bytes], markers: tuple[bytes, bytes]) -> list[bytes]:
    return [line[1:] for line in lines if line.startswith(markers)]


def _is_undecided(encoding: str | None) -> bool:
    return encoding is None or encoding.endswith(ESCAPES)


def _matching_encoding(
    lines: Iterable[bytes], known_lines: Iterable[bytes], known_encoding: str | None
) -> str | None:
    """Return the encoding under which lines say what the other side says, or None.

    A commit that converts a file to another encoding proves both.
    """
    foreign = [line for line in lines if not line.isascii()]
    try:
        known = {decode_as(line, known_encoding or "utf-8") for line in known_lines}
    except UnicodeError:
        return None
    readings = {}
    for encoding in ENCODINGS:
        try:
            readings[tuple(decode_as(line, encoding) for line in foreign)] = encoding
        except UnicodeError:
            continue
    matching = [encoding for reading, encoding in readings.items() if known.issuperset(reading)]
    return matching[0] if len(matching) == 1 else None


def _decode_line(line: bytes, old: str, new: str) -> str:
    marker = line[:1]
    if line.isascii() and not needs_decoding(line):
        return line.decode("ascii")
    if marker == b"@":
        return _decode_header(line, old)
    text = decode_as(line[1:], old if marker == b"-" else new)
    if marker == b" " and old != new and text != decode_as(line[1:], old):
        raise UnicodeError("a line that did not change has two readings")
    return marker.decode() + text


def _decode_header(line: bytes, encoding: str) -> str:
    """Decode the header of a hunk, whose heading git may cut in the middle of a character."""
    for n_cut in range(_MAX_CHARACTER_BYTES):
        try:
            return decode_as(line[: len(line) - n_cut], encoding)
        except UnicodeDecodeError:
            continue
    header = _HUNK_HEADER.match(line)
    return "" if header is None else header[1].decode()
