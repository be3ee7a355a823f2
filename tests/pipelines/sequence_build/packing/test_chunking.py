from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.pipelines.sequence_build.code.boundaries import ScopeHeaders, boundary_strengths
from the_block_llm.pipelines.sequence_build.packing.chunking import cut, token_strength


def spans(n: int, head: int, at: list[int], context: int, overlap: int) -> list[tuple[int, ...]]:
    strength = np.zeros(n, np.int8)
    strength[at] = 1
    pieces = cut(0, n, head, strength, context, overlap)
    return [(piece.head, piece.context, piece.begin, piece.end) for piece in pieces]


def test_a_document_that_fits_stays_whole() -> None:
    assert spans(10, 2, [5], 10, 4) == [(0, 0, 0, 10)]


def test_pieces_follow_on_one_another_and_repeat_head_and_context() -> None:
    # Rows of 10, 4 repeated: a head of 1 and the 3 tokens before the cut.
    assert spans(20, 1, [], 10, 4) == [(0, 0, 0, 10), (1, 7, 10, 16), (1, 13, 16, 20)]


def test_a_cut_is_made_at_the_last_border_of_the_last_quarter() -> None:
    assert spans(20, 0, [3, 8, 9], 10, 2)[0] == (0, 0, 0, 9)
    assert spans(20, 0, [3, 6], 10, 2)[0] == (0, 0, 0, 10)  # 6 is too early


def test_without_overlap_one_token_is_repeated_so_that_none_is_lost() -> None:
    assert spans(8, 0, [], 5, 0) == [(0, 0, 0, 5), (0, 4, 5, 8)]


def test_a_head_longer_than_half_of_the_overlap_is_not_repeated() -> None:
    assert spans(20, 3, [], 10, 4)[1] == (0, 6, 10, 16)


def test_the_line_that_says_where_one_is_is_repeated() -> None:
    strength = np.zeros(60, np.int8)
    place = (4, 6)
    pieces = cut(0, 60, 2, strength, 24, 12, lambda begin: place)
    assert [p.place for p in pieces] == [(0, 0), place, place, place]
    assert [(p.head, p.context, p.begin, p.end) for p in pieces] == [
        (0, 0, 0, 24), (2, 16, 24, 36), (2, 28, 36, 48), (2, 40, 48, 60),
    ]  # fmt: skip
    assert all(p.n_tokens <= 24 for p in pieces)
    # Where it is in sight anyway, it stands there once.
    wide = pieces[1].widened(11)
    assert (wide.place, wide.context, wide.n_tokens) == ((0, 0), 3, 35)


@pytest.mark.parametrize(
    ("kind", "source", "text", "place"),
    [
        ("file", "a.rs", b"File a.rs:\n\nimpl A {\n    // so\n    fn f() {\n@", b"impl A {\n"),
        ("file", "a.py", b"File a.py:\n\ndef f(\n    x,\n):\n    y = 1\n@", b"def f(\n"),
        ("file", "a.md", b"# One\n\ntext\n\n## Two\n\ntext\n@", b"## Two\n"),
        ("commit", "c", b"say\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n+b\n@", b"+++ b/x\n"),
        ("file", "a.txt", b"no heading\n@", b""),
        ("file", "empty.py", b"", b""),
    ],
)
def test_where_in_a_document_one_is(kind: Any, source: str, text: bytes, place: bytes) -> None:
    inside = text.replace(b"\n@", b"\n    z = 2\n")
    offset = max(0, len(inside) - len(b"    z = 2\n"))
    first, last = ScopeHeaders(inside, kind, source).header_before(offset)
    assert inside[first:last] == place


def test_code_that_is_not_indented_stands_in_nothing() -> None:
    text = b"def f():\n    pass\n\n\ndef g():\n    pass\n"
    assert ScopeHeaders(text, "file", "a.py").header_before(text.index(b"def g")) == (0, 0)


@given(
    n=st.integers(1, 600),
    head=st.integers(0, 20),
    context=st.integers(8, 64),
    overlap_share=st.floats(0, 0.5),
    borders_at=st.lists(st.integers(0, 599), max_size=60),
    spare=st.integers(0, 40),
    place_at=st.integers(0, 60),
    place_tokens=st.integers(0, 6),
)
def test_every_token_is_new_in_one_piece_and_no_piece_is_too_long(
    n: int,
    head: int,
    context: int,
    overlap_share: float,
    borders_at: list[int],
    spare: int,
    place_at: int,
    place_tokens: int,
) -> None:
    strength = np.zeros(n, np.int8)
    strength[[at for at in borders_at if at < n]] = 2
    place = (place_at, place_at + place_tokens)
    pieces = cut(0, n, head, strength, context, int(context * overlap_share), lambda _: place)
    assert [p.begin for p in pieces] == [0, *(p.end for p in pieces[:-1])]
    assert pieces[-1].end == n
    for piece in pieces:
        assert piece.begin < piece.end
        assert piece.n_tokens <= context
        assert piece.begin == 0 or piece.context < piece.begin  # something precedes the first
        assert piece.place in {(0, 0), place}
        assert piece.place[1] <= piece.context  # nothing stands there twice
        wider = piece.widened(spare)
        assert wider.place[1] <= max(wider.context, 0)
        assert piece.n_tokens <= wider.n_tokens <= piece.n_tokens + spare
        assert (wider.begin, wider.end) == (piece.begin, piece.end)


def test_a_border_inside_a_token_counts_for_the_cut_before_it() -> None:
    # "ab" "\n " "c": the line begins at byte 3, inside the second token.
    # A mark stands before and after "ab".
    starts, of_starts = np.array([0, 3, 4]), np.array([1, 2, 1], np.int8)
    strength = token_strength(starts, of_starts, np.array([0, 2, 2, 4, 5]))
    assert strength.tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize(
    ("kind", "source", "text", "best"),
    [
        ("file", "a.py", b"import os\n\n\ndef f():\n    x = 1\n\n    y = 2\n", b"def f"),
        ("file", "a.rs", b"use x;\n\n/// Adds.\npub fn f() {\n\n    g();\n}\n", b"/// Adds."),
        ("file", "a.py", b"class A:\n    a = 1\n\n    def f(self):\n        pass\n", b"    def f"),
        ("file", "a.md", b"intro\n\ntext\n## Next\ntext\n", b"## Next"),
        ("commit", "sha", b"say\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", b"--- a/x"),
    ],
)
def test_the_best_cut_is_where_something_begins(
    kind: str, source: str, text: bytes, best: bytes
) -> None:
    strength = boundary_strengths(text, kind, source)  # type: ignore[arg-type]
    inside = strength[1:]
    assert text[1 + int(np.argmax(inside)) :].startswith(best)
