import pytest

from the_block_llm.pipelines.git_ingest.filters.encoding_detection import decode


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("naïve, déjà vu, façade\n" * 9, "cp1252"),
        ("これは日本語の文章です。テスト\n" * 9, "shift_jis"),
    ],
)
def test_old_code_pages_are_read_without_losing_a_byte(text: str, encoding: str) -> None:
    data = text.encode(encoding)
    decoded = decode(data)
    assert decoded is not None
    assert decoded.text.encode(decoded.encoding) == data


def test_text_of_a_code_page_with_control_characters_is_none() -> None:
    # What a patch of a drawing looks like where git takes it for text: there is no NUL in it.
    prose = "naïve, déjà vu, façade\n" * 9
    assert decode(prose.encode("cp1252")) is not None
    assert decode((prose + "x\x13\x14y\x1d\n").encode("cp1252")) is None
