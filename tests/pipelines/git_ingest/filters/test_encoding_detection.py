r"""Text is decoded exactly, or with ``\xNN`` for a byte, or not at all; never to wrong letters.

Every text of :mod:`texts` in each of its encodings goes through the grid: as a file, line by line,
word by word, in a file of English, cut at every byte, and beside UTF-8.
"""

import re
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.pipelines.git_ingest.filters.texts import TEXTS

from the_block_llm.pipelines.git_ingest.filters.encoding_detection import (
    decode,
    decode_message,
    looks_binary,
)

GRID = [(language, encoding) for language, (names, _) in TEXTS.items() for encoding in names]
# Their bytes are ASCII, and say what they say in ASCII as well.
GRID = [(language, encoding) for language, encoding in GRID if encoding != "hz"]
CODE = "def area(width: int) -> int:\n    # {}\n    return width * width  # of a square\n" * 6


def verdict(text: str | None, expected: str) -> str:
    """Return right, escaped, left out or wrong for a decoded text."""
    if text is None:
        return "left out"
    if text == expected:
        return "right"
    letters = {character for character in text if character > "\x7f"}
    return "escaped" if "\\x" in text and letters <= set(expected) else "wrong"


def cases(text: str, encoding: str) -> Iterator[tuple[bytes, str]]:
    """Yield bytes and the text that they are."""
    lines = text.splitlines(keepends=True)
    yield text.encode(encoding), text
    yield text.replace("\n", "\r\n").encode(encoding), text.replace("\n", "\r\n")
    for line in lines:
        yield line.encode(encoding), line
        in_code = CODE.replace("{}", line.strip(), 1)
        yield in_code.encode(encoding), in_code
    for word in text.split():
        yield word.encode(encoding), word
        in_code = CODE.replace("{}", word, 1)
        yield in_code.encode(encoding), in_code
    for utf8 in ("naïve façade, déjà vu\n", "日本語のテキスト\n"):
        if encoding.startswith("iso2022"):
            continue
        yield utf8.encode() + lines[0].encode(encoding), utf8 + lines[0]
        yield text.encode(encoding) + utf8.encode(), text + utf8


@pytest.mark.parametrize(("language", "encoding"), GRID)
def test_no_letter_is_wrong(language: str, encoding: str) -> None:
    wrong = []
    for data, text in cases(TEXTS[language][1], encoding):
        decoded = decode(data)
        if verdict(decoded and decoded.text, text) == "wrong":
            wrong.append((text, decoded))
    assert wrong == []


@pytest.mark.parametrize(("language", "encoding"), [("Greek", "utf-8"), ("Thai", "utf-8"), *GRID])
def test_a_text_that_is_cut_in_a_character_has_no_wrong_letter(
    language: str, encoding: str
) -> None:
    text = TEXTS[language][1].splitlines()[-1]
    data = text.encode(encoding)
    for n_bytes in range(1, len(data)):
        decoded = decode(data[:n_bytes])
        kept = data[:n_bytes].decode(encoding, "ignore")
        found = None if decoded is None else re.sub(r"(?:\\x[0-9a-f]{2})+$", "", decoded.text)
        assert (
            found is None
            or text.startswith(found.replace("\x1b", ""))
            or (verdict(found, kept) != "wrong")
        ), (decoded, kept)


def test_most_whole_texts_are_decoded() -> None:
    verdicts = Counter[str]()
    for language, encoding in GRID:
        text = TEXTS[language][1]
        decoded = decode(text.encode(encoding))
        verdicts[verdict(decoded and decoded.text, text)] += 1
    assert verdicts["right"] >= 0.9 * len(GRID), verdicts
    assert verdicts["wrong"] == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("language", TEXTS)
def test_unicode_is_always_decoded(language: str, encoding: str) -> None:
    text = TEXTS[language][1]
    decoded = decode(text.encode(encoding))
    assert decoded is not None
    assert decoded.text.lstrip("\ufeff") == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("language", TEXTS)
def test_utf_16_without_a_mark_is_binary_as_for_git(language: str, encoding: str) -> None:
    data = TEXTS[language][1].encode(encoding)
    assert looks_binary(data)
    assert decode(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0\x80 overlong", b"\xe0\x80\xaf", b"\xed\xa0\x80 surrogate", b"\xf5\x80\x80\x80",
        b"\xff\xfea", b"\xff\xfe\x00\xd8", bytes(range(128, 256)),
    ],
)  # fmt: skip
def test_broken_unicode_is_not_decoded(data: bytes) -> None:
    assert decode(data) is None


def test_a_few_undecided_bytes_are_escaped() -> None:
    decoded = decode(b"int area;\n" * 50 + b"// na\xefve\n")
    assert decoded is not None
    assert decoded.text.endswith("// na\\xefve\n")
    assert decoded.encoding == "utf-8+escapes"


def test_a_declared_encoding_decides_what_the_letters_leave_open() -> None:
    declared = b"# -*- coding: latin-1 -*-\n# na\xefve\n"
    decoded = decode(declared)
    assert decoded is not None
    assert decoded.text.endswith("# naïve\n")


def test_a_declared_encoding_is_not_believed_against_the_letters() -> None:
    text = TEXTS["Russian"][1]
    for declared in ("latin-1", "utf-8", "shift_jis", "no such encoding"):
        data = f"# -*- coding: {declared} -*-\n".encode() + text.encode("cp1251")
        decoded = decode(data)
        assert decoded is not None
        assert decoded.text.endswith(text)


def test_a_legacy_encoding_with_control_characters_is_not_text() -> None:
    # A patch of a binary drawing without NUL bytes, which git treats as text.
    prose = "naïve, déjà vu, façade\n" * 9
    assert decode(prose.encode("cp1252")) is not None
    assert decode((prose + "x\x13\x14y\x1d\n").encode("cp1252")) is None


@pytest.mark.parametrize(("language", "encoding"), GRID)
@pytest.mark.parametrize("declared", ["", "right", "ISO-8859-1", "UTF-8", "cp1251", "GBK", "?"])
def test_no_letter_of_a_message_is_wrong(language: str, encoding: str, declared: str) -> None:
    text = TEXTS[language][1]
    found = decode_message(text.encode(encoding), encoding if declared == "right" else declared)
    assert verdict(found, text) in {"right", "escaped"}, found[:200]
    if declared == "right":
        assert found == text


@pytest.mark.parametrize("n_bytes", range(40, 60))
def test_a_message_of_utf_8_cut_by_its_tool_keeps_its_letters(n_bytes: int) -> None:
    text = TEXTS["Russian"][1]
    message = decode_message(text.encode()[:n_bytes])
    assert text.startswith(message.partition("\\x")[0])
    assert len(message.partition("\\x")[0]) >= n_bytes // 2 - 3
