import pytest

from the_block_llm.pipelines.git_ingest.decoding import decode


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


def test_compressed_bytes_are_no_text_of_a_code_page() -> None:
    # What a patch of a drawing looks like where git takes it for text: no NUL, and bytes of all
    # other kinds, control characters among them.
    head = b"@@ -1,2 +1,9 @@\n+%PDF-1.5\n"
    noise = bytes(1 + (i * i * 31 + i * 7 + 3) % 255 for i in range(4000)).replace(b"\n", b"\r")
    assert decode(head + noise) is None
