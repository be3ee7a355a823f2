import pytest
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.advisor.output.citation_stream import CitationStream
from the_block_llm.advisor.output.sanitize import sanitize_text
from the_block_llm.retrieval.citations import known_names

SHA = "1f2e3d4c5b6a79881234567890abcdef12345678"
KNOWN = known_names([{"path": "src/ledger/mod.rs", "text": "struct State;\nx\n"}], [{"sha": SHA}])


def checked(pieces, known=KNOWN):
    check = CitationStream(known)
    return [p for piece in pieces for p in check.feed(piece)] + list(check.flush())


def shown(text):
    return "".join(part.annotated_text() for part in checked(list(text)))


@pytest.mark.parametrize(
    ("answer", "marked"),
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
def test_what_does_not_exist_is_marked(answer, marked):
    assert shown(answer) == marked


PIECES = st.lists(
    st.one_of(
        st.sampled_from(["src/ledger/mod.rs", ":2", ":99", "1f2e3d4", " ", "[", "]", "`State`"]),
        st.text(max_size=8),
    ),
    max_size=30,
)


@given(PIECES)
def test_nothing_is_lost_however_the_text_is_cut(pieces):
    assert "".join(part.text for part in checked(pieces)) == "".join(pieces)


@given(
    st.lists(st.sampled_from(["src/ledger/mod.rs:2", "src/no.rs", "1f2e3d4", "and"]), max_size=9)
)
def test_pieces_give_what_the_whole_gives(words):
    text = " ".join(words)
    letter_by_letter = [p.citation for p in checked(list(text)) if p.citation]
    assert letter_by_letter == [p.citation for p in checked([text]) if p.citation]


def test_a_word_is_shown_as_soon_as_it_has_ended():
    check = CitationStream(KNOWN)
    assert [p.text for p in check.feed("In src/ledger/mo")] == ["In"]
    assert [p.text for p in check.feed("d.rs:2, as")] == [" ", "src/ledger/mod.rs:2", ","]
    assert [p.text for p in check.flush()] == [" as"]


def test_scripts_without_spaces_do_not_wait_for_the_end():
    check = CitationStream(KNOWN)
    assert "".join(p.text for p in check.feed("台帳は合意の後に" * 10))


def test_without_tables_text_goes_straight_through():
    assert [p.text for p in checked(["src/no", ".rs"], None)] == ["src/no", ".rs"]


def test_a_terminal_is_not_steered_by_an_answer():
    assert sanitize_text("a\x1b]0;title\x07b\x9b31m\r\u202ec\td\n") == "a�]0;title�b�31m��c\td\n"
