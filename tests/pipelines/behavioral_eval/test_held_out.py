import math

import pytest
import torch
from tests.builders.tiny_llama import byte_tokenizer, tiny_llama
from torch.nn import functional

from the_block_llm.datasets.parts import save_parts
from the_block_llm.errors import StaleDataError, TooLittleDataError
from the_block_llm.pipelines.behavioral_eval.held_out import (
    batches_of_rows,
    choose_rows,
    held_out_sources,
    measure_rows,
)
from the_block_llm.schemas import DOCUMENTS, ROWS


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def row(tokenizer, *texts, masked=0):
    """One packed row; each text ends with the end mark, as sequence_build writes it."""
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    segments = [[*tokenizer(text)["input_ids"], end] for text in texts]
    ids = [id_ for segment in segments for id_ in segment]
    return {
        "input_ids": ids,
        "labels_mask": [place >= masked for place in range(len(ids))],
        "segment_lengths": [len(segment) for segment in segments],
        "document_ids": [f"d{place}" for place in range(len(segments))],
        "n_tokens": len(ids),
        "stage": 0,
    }


def test_bits_and_bytes_of_each_document(tokenizer):
    model = tiny_llama().eval()
    texts = ["fn größe() {}", "let x = 1;"]
    pieces = list(measure_rows(model, tokenizer, [(4, row(tokenizer, *texts))]))
    assert [piece.item_id for piece in pieces] == ["d0@4.0", "d1@4.1"]
    assert [piece.document_id for piece in pieces] == ["d0", "d1"]
    for piece, text in zip(pieces, texts, strict=True):
        # The first byte of a segment is read, never predicted.
        assert piece.n_bytes == len(text.encode()) - 1
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        nats = functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        assert piece.bits == pytest.approx(nats / math.log(2), rel=1e-4)


def test_context_without_loss_is_not_counted(tokenizer):
    packed = row(tokenizer, "abcdefgh", masked=5)
    [piece] = measure_rows(tiny_llama().eval(), tokenizer, [(0, packed)])
    assert piece.n_bytes == 3


def test_a_piece_without_targets_is_left_out(tokenizer):
    packed = row(tokenizer, "ab", masked=9)
    assert not list(measure_rows(tiny_llama().eval(), tokenizer, [(0, packed)]))


def test_rows_of_another_documents_table(tokenizer, tmp_path):
    documents = save_parts(tmp_path / "d", DOCUMENTS, [])
    with pytest.raises(StaleDataError, match="document d0"):
        held_out_sources(documents, [(0, row(tokenizer, "ab"))])


def test_rows_are_drawn_without_replacement_and_repeatably(tokenizer, tmp_path):
    import pyarrow as pa

    rows = [row(tokenizer, "x" * (place + 1)) for place in range(9)]
    table = save_parts(tmp_path / "t", ROWS, [pa.Table.from_pylist(rows, ROWS)])
    drawn = choose_rows(table, 4, seed=1)
    assert drawn == choose_rows(table, 4, seed=1)
    numbers = [number for number, _ in drawn]
    assert numbers == sorted(set(numbers))
    assert all(len(found["input_ids"]) == number + 2 for number, found in drawn)
    assert len(choose_rows(table, 99, seed=1)) == 9


def test_an_empty_table_says_what_to_do(tmp_path):
    table = save_parts(tmp_path / "t", ROWS, [])
    with pytest.raises(TooLittleDataError, match="cutoff"):
        choose_rows(table, 4, seed=1)


def test_batches_hold_at_most_4096_tokens_or_one_row():
    rows = [(n, {"input_ids": [0] * width}) for n, width in enumerate([2048, 2048, 10, 9000, 5])]
    assert [[n for n, _ in batch] for batch in batches_of_rows(rows)] == [[0, 1], [2], [3], [4]]
