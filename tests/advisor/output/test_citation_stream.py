import pytest
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.advisor.output.citation_stream import CitationStream
from the_block_llm.advisor.output.sanitize import sanitize_text
from the_block_llm.retrieval.citations import known_names

SHA = "1f2e3d4c5b6a79881234567890abcdef12345678"
KNOWN = known_names([{"path": "src/ledger/mod.rs", "text": "struct State;\nx\n"}], [{"sha": SHA}])


def stream_parts(chunks, known=KNOWN):
    stream = CitationStream(known)
    return [p for chunk in chunks for p in stream.feed(chunk)] + list(stream.flush())


def annotate(text):
    return "".join(part.annotated_text() for part in stream_parts(list(text)))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("See [src/ledger/mod.rs:2].", "See [src/ledger/mod.rs:2]."),
        ("See [src/ledger/mod.rs:9].", "See [src/ledger/mod.rs:9 (not found)]."),
        ("See src/ledger/mood.rs now", "See src/ledger/mood.rs (not found) now"),
        ("since [1f2e3d4] and [1f2e3d5]", "since [1f2e3d4] and [1f2e3d5 (not found)]"),
        ("`State` and `Strate`", "`State` and `Strate (not found)`"),
        ("../../../etc/passwd.txt", "../../../etc/passwd.txt (not found)"),
        ("nothing cited.\n", "nothing cited.\n"),
        ("", ""),
    ],
)
def test_nonexistent_citations_are_marked(answer, expected):
    assert annotate(answer) == expected


CHUNKS = st.lists(
    st.one_of(
        st.sampled_from(["src/ledger/mod.rs", ":2", ":99", "1f2e3d4", " ", "[", "]", "`State`"]),
        st.text(max_size=8),
    ),
    max_size=30,
)


@given(CHUNKS)
def test_no_text_is_lost_for_any_chunking(chunks):
    assert "".join(part.text for part in stream_parts(chunks)) == "".join(chunks)


@given(
    st.lists(st.sampled_from(["src/ledger/mod.rs:2", "src/no.rs", "1f2e3d4", "and"]), max_size=9)
)
def test_citations_do_not_depend_on_the_chunking(words):
    text = " ".join(words)
    by_character = [p.citation for p in stream_parts(list(text)) if p.citation]
    assert by_character == [p.citation for p in stream_parts([text]) if p.citation]


def test_a_word_is_emitted_when_it_is_complete():
    stream = CitationStream(KNOWN)
    assert [p.text for p in stream.feed("In src/ledger/mo")] == ["In"]
    assert [p.text for p in stream.feed("d.rs:2, as")] == [" ", "src/ledger/mod.rs:2", ","]
    assert [p.text for p in stream.flush()] == [" as"]


def test_text_without_spaces_is_emitted_before_the_end():
    stream = CitationStream(KNOWN)
    assert "".join(p.text for p in stream.feed("台帳は合意の後に" * 10))


def test_text_is_not_buffered_without_known_names():
    assert [p.text for p in stream_parts(["src/no", ".rs"], None)] == ["src/no", ".rs"]


def test_terminal_control_characters_are_replaced():
    assert sanitize_text("a\x1b]0;title\x07b\x9b31m\r\u202ec\td\n") == "a�]0;title�b�31m��c\td\n"
