from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.pipelines.sequence_build.code.boundaries import ScopeHeaders, boundary_strengths
from the_block_llm.pipelines.sequence_build.packing.chunking import (
    chunk_document,
    token_boundary_strengths,
)


def spans(
    n: int, header: int, boundaries: list[int], context: int, overlap: int
) -> list[tuple[int, ...]]:
    strengths = np.zeros(n, np.int8)
    strengths[boundaries] = 1
    chunks = chunk_document(0, n, header, strengths, context, overlap)
    return [(c.header_tokens, c.context_start, c.start, c.end) for c in chunks]


def test_a_document_that_fits_is_one_chunk() -> None:
    assert spans(10, 2, [5], 10, 4) == [(0, 0, 0, 10)]


def test_chunks_repeat_the_header_and_the_context() -> None:
    # Rows of 10, overlap 4: a header of 1 and the 3 tokens before the chunk.
    assert spans(20, 1, [], 10, 4) == [(0, 0, 0, 10), (1, 7, 10, 16), (1, 13, 16, 20)]


def test_a_chunk_ends_at_the_last_boundary_of_the_last_quarter() -> None:
    assert spans(20, 0, [3, 8, 9], 10, 2)[0] == (0, 0, 0, 9)
    assert spans(20, 0, [3, 6], 10, 2)[0] == (0, 0, 0, 10)  # 6 is too early


def test_without_overlap_one_token_is_repeated_so_every_token_is_a_target() -> None:
    assert spans(8, 0, [], 5, 0) == [(0, 0, 0, 5), (0, 4, 5, 8)]


def test_a_header_longer_than_half_of_the_overlap_is_not_repeated() -> None:
    assert spans(20, 3, [], 10, 4)[1] == (0, 6, 10, 16)


def test_the_section_line_is_repeated() -> None:
    strengths = np.zeros(60, np.int8)
    line = (4, 6)
    chunks = chunk_document(0, 60, 2, strengths, 24, 12, lambda start: line)
    assert [c.scope_header for c in chunks] == [(0, 0), line, line, line]
    assert [(c.header_tokens, c.context_start, c.start, c.end) for c in chunks] == [
        (0, 0, 0, 24), (2, 16, 24, 36), (2, 28, 36, 48), (2, 40, 48, 60),
    ]  # fmt: skip
    assert all(c.n_tokens <= 24 for c in chunks)
    # Once the context covers the line, it is not repeated.
    longer = chunks[1].with_more_context(11)
    assert (longer.scope_header, longer.context_start, longer.n_tokens) == ((0, 0), 3, 35)


@pytest.mark.parametrize(
    ("kind", "source", "text", "line"),
    [
        ("file", "a.rs", b"File a.rs:\n\nimpl A {\n    // so\n    fn f() {\n@", b"impl A {\n"),
        ("file", "a.py", b"File a.py:\n\ndef f(\n    x,\n):\n    y = 1\n@", b"def f(\n"),
        ("file", "a.md", b"# One\n\ntext\n\n## Two\n\ntext\n@", b"## Two\n"),
        ("commit", "c", b"say\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n+b\n@", b"+++ b/x\n"),
        ("file", "a.txt", b"no heading\n@", b""),
        ("file", "empty.py", b"", b""),
    ],
)
def test_the_section_line_before_an_offset(
    kind: Any, source: str, text: bytes, line: bytes
) -> None:
    inside = text.replace(b"\n@", b"\n    z = 2\n")
    offset = max(0, len(inside) - len(b"    z = 2\n"))
    first, last = ScopeHeaders(inside, kind, source).header_before(offset)
    assert inside[first:last] == line


def test_code_that_is_not_indented_has_no_section_line() -> None:
    text = b"def f():\n    pass\n\n\ndef g():\n    pass\n"
    assert ScopeHeaders(text, "file", "a.py").header_before(text.index(b"def g")) == (0, 0)


@given(
    n=st.integers(1, 600),
    header=st.integers(0, 20),
    context=st.integers(8, 64),
    overlap_fraction=st.floats(0, 0.5),
    boundaries=st.lists(st.integers(0, 599), max_size=60),
    free=st.integers(0, 40),
    line_start=st.integers(0, 60),
    line_tokens=st.integers(0, 6),
)
def test_every_token_is_new_in_one_chunk_and_no_chunk_is_too_long(
    n: int,
    header: int,
    context: int,
    overlap_fraction: float,
    boundaries: list[int],
    free: int,
    line_start: int,
    line_tokens: int,
) -> None:
    strengths = np.zeros(n, np.int8)
    strengths[[token for token in boundaries if token < n]] = 2
    line = (line_start, line_start + line_tokens)
    overlap = int(context * overlap_fraction)
    chunks = chunk_document(0, n, header, strengths, context, overlap, lambda _: line)
    assert [c.start for c in chunks] == [0, *(c.end for c in chunks[:-1])]
    assert chunks[-1].end == n
    for chunk in chunks:
        assert chunk.start < chunk.end
        assert chunk.n_tokens <= context
        assert chunk.start == 0 or chunk.context_start < chunk.start  # the first token has context
        assert chunk.scope_header in {(0, 0), line}
        assert chunk.scope_header[1] <= chunk.context_start  # no token is repeated twice
        longer = chunk.with_more_context(free)
        assert longer.scope_header[1] <= max(longer.context_start, 0)
        assert chunk.n_tokens <= longer.n_tokens <= chunk.n_tokens + free
        assert (longer.start, longer.end) == (chunk.start, chunk.end)


def test_a_boundary_inside_a_token_counts_for_that_token() -> None:
    # "ab" "\n " "c": the line starts at byte 3, inside the second token.
    # There is a special token before and after "ab".
    offsets, byte_strengths = np.array([0, 3, 4]), np.array([1, 2, 1], np.int8)
    strengths = token_boundary_strengths(offsets, byte_strengths, np.array([0, 2, 2, 4, 5]))
    assert strengths.tolist() == [0, 1, 0, 2, 1]


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
def test_the_strongest_boundary_is_before_a_definition_or_heading(
    kind: str, source: str, text: bytes, best: bytes
) -> None:
    strength = boundary_strengths(text, kind, source)  # type: ignore[arg-type]
    inside = strength[1:]
    assert text[1 + int(np.argmax(inside)) :].startswith(best)
