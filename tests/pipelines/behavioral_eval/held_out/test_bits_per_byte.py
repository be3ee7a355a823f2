import math
from datetime import UTC, datetime

import pyarrow as pa
import pytest
import torch
from tests.builders.tiny_llama import byte_tokenizer, tiny_llama
from torch.nn import functional

from the_block_llm.datasets.parquet_table import save_table
from the_block_llm.errors import StaleDataError, TooLittleDataError
from the_block_llm.pipelines.behavioral_eval.held_out.bits_per_byte import (
    held_out_sources,
    iter_batches,
    measure_rows,
    sample_rows,
)
from the_block_llm.pipelines.behavioral_eval.held_out.contamination import TrainOverlap
from the_block_llm.schemas import DOCUMENTS, ROWS


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def row(tokenizer, *texts, masked=0):
    """One packed row; each text ends with the end-of-document token, as in sequence_build."""
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    segments = [[*tokenizer(text)["input_ids"], end] for text in texts]
    ids = [id_ for segment in segments for id_ in segment]
    return {
        "input_ids": ids,
        "labels_mask": [index >= masked for index in range(len(ids))],
        "segment_lengths": [len(segment) for segment in segments],
        "document_ids": [f"d{index}" for index in range(len(segments))],
        "n_tokens": len(ids),
        "stage": 0,
    }


def test_bits_and_bytes_of_each_document(tokenizer):
    model = tiny_llama().eval()
    texts = ["fn größe() {}", "let x = 1;"]
    scores = list(measure_rows(model, tokenizer, [(4, row(tokenizer, *texts))]))
    assert [score.item_id for score in scores] == ["d0@4.0", "d1@4.1"]
    assert [score.document_id for score in scores] == ["d0", "d1"]
    for score, text in zip(scores, texts, strict=True):
        # The first byte of a segment is context only.
        assert score.n_bytes == len(text.encode()) - 1
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        nats = functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        assert score.bits == pytest.approx(nats / math.log(2), rel=1e-4)


def test_tokens_without_loss_are_not_counted(tokenizer):
    packed = row(tokenizer, "abcdefgh", masked=5)
    [score] = measure_rows(tiny_llama().eval(), tokenizer, [(0, packed)])
    assert score.n_bytes == 3


def test_a_segment_without_targets_is_skipped(tokenizer):
    packed = row(tokenizer, "ab", masked=9)
    assert not list(measure_rows(tiny_llama().eval(), tokenizer, [(0, packed)]))


def test_rows_that_do_not_match_the_documents_are_an_error(tokenizer, tmp_path):
    documents = save_table(tmp_path / "d", DOCUMENTS, [])
    with pytest.raises(StaleDataError, match="document d0"):
        held_out_sources(documents, [(0, row(tokenizer, "ab"))], TrainOverlap({}, {}))


@pytest.fixture
def tables(tokenizer, tmp_path):
    """Eight rows of one large commit, one row each of a file and two questions."""
    ids = [*["big"] * 8, "file", "chat-1", "chat-2"]
    rows = [
        {**row(tokenizer, "x" * (length + 1)), "document_ids": [id_]}
        for length, id_ in enumerate(ids)
    ]
    documents = [
        {
            "document_id": id_,
            "kind": {"big": "commit"}.get(id_, id_.split("-")[0]),
            "split": "held_out",
            "source": id_,
            "authored_at": datetime(2026, 1, 1, tzinfo=UTC),
            "segments": [],
            "input_ids": [1],
            "labels_mask": [True],
            "n_tokens": 1,
            "stage": 0,
        }
        for id_ in dict.fromkeys(ids)
    ]
    return (
        save_table(tmp_path / "rows", ROWS, [pa.Table.from_pylist(rows, ROWS)]),
        save_table(tmp_path / "docs", DOCUMENTS, [pa.Table.from_pylist(documents, DOCUMENTS)]),
    )


@pytest.mark.parametrize("seed", range(5))
def test_one_row_of_each_source_is_sampled_before_a_second(tables, seed):
    sample = sample_rows(*tables, 2, seed)
    assert {packed["document_ids"][0] for _, packed in sample} == {"big", "file"}
    nine = sample_rows(*tables, 9, seed)
    assert "chat-1" not in {packed["document_ids"][0] for _, packed in nine}
    everything = sample_rows(*tables, 99, seed)
    assert [number for number, _ in everything] == list(range(11))
    assert all(len(packed["input_ids"]) == number + 2 for number, packed in everything)


def test_the_same_seed_samples_the_same_rows(tables):
    assert sample_rows(*tables, 4, 1) == sample_rows(*tables, 4, 1)
    samples = {tuple(number for number, _ in sample_rows(*tables, 2, seed)) for seed in range(9)}
    assert len(samples) > 1


def test_an_empty_table_is_an_error_that_names_the_parameter(tmp_path):
    table = save_table(tmp_path / "t", ROWS, [])
    documents = save_table(tmp_path / "d", DOCUMENTS, [])
    with pytest.raises(TooLittleDataError, match="cutoff"):
        sample_rows(table, documents, 4, seed=1)


def test_batches_are_limited_by_padded_tokens_or_hold_one_row():
    rows = [(n, {"input_ids": [0] * width}) for n, width in enumerate([2048, 2048, 10, 9000, 5])]
    batches = iter_batches(rows, max_tokens=4096)
    assert [[n for n, _ in batch] for batch in batches] == [[0, 1], [2], [3], [4]]
