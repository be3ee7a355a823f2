"""Text is decoded without loss; binary data is not decoded."""

import pytest

from the_block_llm.pipelines.git_ingest.filters.encoding_detection import decode


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("naïve, déjà vu, façade\n" * 9, "cp1252"),
        ("これは日本語の文章です。テスト\n" * 9, "shift_jis"),
    ],
)
def test_legacy_encodings_are_decoded_without_loss(text: str, encoding: str) -> None:
    data = text.encode(encoding)
    decoded = decode(data)
    assert decoded is not None
    assert decoded.text.encode(decoded.encoding) == data


def test_a_legacy_encoding_with_control_characters_is_not_text() -> None:
    # A patch of a binary drawing without NUL bytes, which git treats as text.
    prose = "naïve, déjà vu, façade\n" * 9
    assert decode(prose.encode("cp1252")) is not None
    assert decode((prose + "x\x13\x14y\x1d\n").encode("cp1252")) is None
