"""From awkward drafts to rows and back: every target text is in the rows exactly once."""

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment
from the_block_llm.pipelines.sequence_build.packing.jobs import pack_windows
from the_block_llm.pipelines.sequence_build.packing.windows import plan_windows
from the_block_llm.pipelines.sequence_build.params import RowShape
from the_block_llm.pipelines.sequence_build.tokenization.document_table import document_batches
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import DocumentTokenizer
from the_block_llm.schemas import DOCUMENTS, ROWS

AT = datetime(2026, 1, 1, tzinfo=UTC)
MakeTokenizer = Callable[[], DocumentTokenizer]

_FRAGMENTS = (
    "def f(x):\n", "    return x\n", "\n", "\n\n", "# Heading\n", "text and more of it ", "\x00",
    "\u202e\u05d0", "👩‍👩‍👧", "e\u0301", "<|eot_id|>", "<|im_end|>", "\t\t", "    ", "{",
    "}\n", "é" * 9,
    "@@ -1 +1 @@\n", "--- a/x\n+++ b/x\n", "0123456789" * 4, "\r\n", "﷽",
)  # fmt: skip
texts = st.lists(st.sampled_from(_FRAGMENTS), max_size=80).map("".join)
documents = st.lists(
    st.tuples(
        st.sampled_from(["file", "commit"]),
        st.sampled_from(["a.py", "b/c.md", "b/d.rs", "e.txt"]),
        st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(params=["smollm2", "llama3"])
def make_tokenizer(request: pytest.FixtureRequest) -> MakeTokenizer:
    tokenizer = copy.deepcopy(request.getfixturevalue(request.param))
    name = "llama3_profile" if request.param == "llama3" else "smollm2_profile"
    document_tokenizer = DocumentTokenizer(tokenizer, request.getfixturevalue(name))
    return lambda: document_tokenizer


def rows_of(
    docs: list[RenderedDocument],
    tokenizer: DocumentTokenizer,
    shape: RowShape,
    folder: Path,
) -> tuple[ParquetTable, ParquetTable]:
    documents = save_table(
        folder / "documents",
        DOCUMENTS,
        document_batches(
            (replace(doc, is_checked=True) for doc in docs), tokenizer, shape.context_tokens
        ),
    )
    windows = plan_windows(documents, "train", shape)
    packed = pack_windows(
        documents, windows, shape, tokenizer.byte_lengths, None, ExecutionParams()
    )
    return documents, save_table(folder / "rows", ROWS, packed)


# The chunk before the last could take all of its targets.
@example(
    contents=[("file", "a.py", [("def f(x):\n" * 12 + "👩\u200d👩\u200d👧", True), ("", False)])],
    context=64,
    overlap=0,
)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    contents=documents, context=st.sampled_from([64, 100, 256]), overlap=st.sampled_from([0, 8, 32])
)
def test_decoding_the_targets_restores_every_text_once(
    make_tokenizer: MakeTokenizer, contents: Any, context: int, overlap: int
) -> None:
    tokenizer = make_tokenizer()
    docs = [
        RenderedDocument(
            f"{kind}/{number}/{source}", kind, "train", source, AT,
            (Segment(f"File {source}:\n\n", train=False),
             *(Segment(text, train=train) for text, train in segments)),
        )
        for number, (kind, source, segments) in enumerate(contents)
    ]  # fmt: skip
    with TemporaryDirectory() as folder:
        documents, rows = rows_of(docs, tokenizer, RowShape(context, overlap), Path(folder))
        by_id = {row["document_id"]: row for row in documents.rows()}
        assert all(row["n_tokens"] <= context for row in rows.rows(["n_tokens"]))
        chunks = _targets_by_document(rows)
    for doc in docs:
        row = by_id[doc.document_id]
        ids = _targets(row["input_ids"], row["labels_mask"])
        # Chunks are in rows in any order; concatenated they are the document.
        assert _is_concatenation(ids, chunks[doc.document_id])
        text = "".join(segment.text for segment in doc.segments if segment.train)
        special = {id_ for id_ in ids if tokenizer.byte_lengths[id_] == 0}
        body = [id_ for id_ in ids if id_ not in special]
        assert tokenizer.backend.decode(body, skip_special_tokens=False) == text
        # Only the end token is special; special tokens in a text are ordinary tokens.
        assert len(ids) - len(body) <= 1


def _targets_by_document(rows: ParquetTable) -> dict[str, list[list[int]]]:
    """Return the targets of each document's chunks; every chunk must have one."""
    chunks: dict[str, list[list[int]]] = defaultdict(list)
    for row in rows.rows():
        start = 0
        for length, name in zip(row["segment_lengths"], row["document_ids"], strict=True):
            ids = row["input_ids"][start : start + length]
            mask = row["labels_mask"][start : start + length]
            start += length
            assert any(mask)
            chunks[name].append(_targets(ids, mask))
    return chunks


def _targets(ids: list[int], mask: list[bool]) -> list[int]:
    return [id_ for id_, target in zip(ids, mask, strict=True) if target]


def _is_concatenation(ids: list[int], chunks: list[list[int]]) -> bool:
    """Return whether the chunks, in some order, concatenate to ``ids``."""
    if not ids:
        return not chunks
    return any(
        ids[: len(chunk)] == chunk
        and _is_concatenation(ids[len(chunk) :], chunks[:index] + chunks[index + 1 :])
        for index, chunk in enumerate(chunks)
        if chunk not in chunks[:index]
    )


def test_an_empty_document_makes_no_row(make_tokenizer: MakeTokenizer, tmp_path: Path) -> None:
    empty = RenderedDocument(
        "commit/1", "commit", "train", "1", AT,
        (Segment("Commit 1:\n\n", train=False), Segment("", train=False)),
    )  # fmt: skip
    documents, rows = rows_of([empty], make_tokenizer(), RowShape(64, 16), tmp_path)
    assert (documents.num_rows, rows.num_rows) == (1, 0)


def test_lone_surrogates_become_question_marks(
    make_tokenizer: MakeTokenizer, tmp_path: Path
) -> None:
    text = "before \ud800 after \udfff\n"
    head = Segment("File odd.txt:\n\n", train=False)
    doc = RenderedDocument(
        "file/odd.txt", "file", "train", "odd.txt", AT, (head, Segment(text, train=True))
    )
    tokenizer = make_tokenizer()
    documents, rows = rows_of([doc], tokenizer, RowShape(64, 16), tmp_path)
    [row] = rows.rows()
    targets = _targets(row["input_ids"], row["labels_mask"])[:-1]
    assert tokenizer.backend.decode(targets) == "before ? after ?\n"
    [document] = documents.rows(["segments"])
    assert document["segments"][1]["text"] == "before ? after ?\n"


def test_characters_without_a_token_are_replaced_with_a_warning(
    smollm2: Any, smollm2_profile: ModelProfile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = DocumentTokenizer(copy.deepcopy(smollm2), smollm2_profile)
    text = "group\x1dseparator, end\x04 and \U00050000, but \x01 and é\n"
    head = Segment("File odd.txt:\n\n", train=False)
    doc = RenderedDocument(
        "file/odd.txt", "file", "train", "odd.txt", AT, (head, Segment(text, train=True))
    )
    _, rows = rows_of([doc], tokenizer, RowShape(64, 16), tmp_path)
    [row] = rows.rows()
    targets = _targets(row["input_ids"], row["labels_mask"])[:-1]
    expected = "group\ufffdseparator, end\ufffd and \ufffd, but \x01 and é\n"
    assert tokenizer.backend.decode(targets) == expected
    assert "1 documents have characters" in caplog.text


def test_a_line_of_a_million_characters_is_split_into_rows(
    smollm2: Any, smollm2_profile: ModelProfile, tmp_path: Path
) -> None:
    tokenizer = DocumentTokenizer(copy.deepcopy(smollm2), smollm2_profile)
    text = "".join(f"{number * 7919 % 1000:03d} " for number in range(250_000))
    head = Segment("File long.txt:\n\n", train=False)
    doc = RenderedDocument(
        "file/long.txt", "file", "train", "long.txt", AT, (head, Segment(text, True))
    )
    documents, rows = rows_of([doc], tokenizer, RowShape(8192, 64), tmp_path)
    [document] = documents.rows(["labels_mask"])
    targets = [sum(row["labels_mask"]) for row in rows.rows(["labels_mask"])]
    assert sum(targets) == sum(document["labels_mask"])
    # All rows but the last are full: chunks can end without a boundary.
    assert all(row["n_tokens"] == 8192 for row in list(rows.rows(["n_tokens"]))[:-1])


@pytest.mark.parametrize("context", [256, 2048, 16_384])
def test_rows_are_full(
    context: int, smollm2: Any, smollm2_profile: ModelProfile, tmp_path: Path
) -> None:
    tokenizer = DocumentTokenizer(copy.deepcopy(smollm2), smollm2_profile)
    docs = [
        RenderedDocument(
            f"file/m{number % 5}/f{number}.py", "file", "train", f"m{number % 5}/f{number}.py", AT,
            (Segment(f"File m{number % 5}/f{number}.py:\n\n", train=False),
             Segment("".join(f"def f{n}(x):\n    return x + {n * number}\n\n\n"
                             for n in range(3 + number * 17 % 160)), train=True)),
        )
        for number in range(150)
    ]  # fmt: skip
    _, rows = rows_of(docs, tokenizer, RowShape(context, context // 4), tmp_path)
    n_tokens = sum(row["n_tokens"] for row in rows.rows(["n_tokens"]))
    # The remainder may not fill a row, so one row may be short.
    assert n_tokens > 0.99 * context * (rows.num_rows - 1)


def test_rows_are_full_beside_chats_that_are_never_split(
    smollm2: Any, smollm2_profile: ModelProfile, tmp_path: Path
) -> None:
    tokenizer = DocumentTokenizer(copy.deepcopy(smollm2), smollm2_profile)
    chats = [
        RenderedDocument(
            f"chat/{number}", "chat", "train", f"m{number % 3}/f.py", AT,
            (Segment("What is it for?", train=False),
             Segment("It is there. " * (40 + number % 9), train=True)),
        )
        for number in range(40)
    ]  # fmt: skip
    files = [
        RenderedDocument(
            f"file/{number}", "file", "train", f"m{number % 3}/g{number}.py", AT,
            (Segment(f"File m{number % 3}/g{number}.py:\n\n", train=False),
             Segment("".join(f"def f{n}(x):\n    return x\n" for n in range(80)), train=True)),
        )
        for number in range(40)
    ]  # fmt: skip
    documents, rows = rows_of([*chats, *files], tokenizer, RowShape(256, 64), tmp_path)
    n_tokens = sum(row["n_tokens"] for row in rows.rows(["n_tokens"]))
    assert n_tokens > 0.99 * 256 * (rows.num_rows - 1)
    chunks = _targets_by_document(rows)
    for row in documents.rows():
        targets = _targets(row["input_ids"], row["labels_mask"])
        assert _is_concatenation(targets, chunks[row["document_id"]])
    # Files share rows with chats, and only files are split.
    shared = [row["document_ids"] for row in rows.rows(["document_ids"])]
    assert any({name[:4] for name in names} == {"chat", "file"} for names in shared)
    assert all(len(chunks[doc.document_id]) == 1 for doc in chats)
