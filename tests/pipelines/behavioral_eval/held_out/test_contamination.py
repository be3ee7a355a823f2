from datetime import UTC, datetime

import pyarrow as pa

from the_block_llm.datasets.parquet_table import save_table
from the_block_llm.pipelines.behavioral_eval.held_out.contamination import (
    measure_train_overlap,
    train_overlap_by_document,
)
from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem
from the_block_llm.pipelines.behavioral_eval.tasks.registry import add_train_overlap
from the_block_llm.schemas import DOCUMENTS

COMMON = "let checked = balance.checked_sub(amount);"


def document(document_id, split, text, header="File src/a.rs is shown:\n\n"):
    return {
        "document_id": document_id,
        "kind": "file",
        "split": split,
        "source": document_id,
        "authored_at": datetime(2026, 1, 1, tzinfo=UTC),
        "segments": [{"text": header, "train": False}, {"text": text, "train": True}],
        "input_ids": [1],
        "labels_mask": [True],
        "n_tokens": 1,
        "stage": 0,
    }


def test_overlap_is_the_fraction_of_lines_in_training(tmp_path):
    lines = [f"let number_{n} = {n} * factor;" for n in range(8)]
    rows = [
        document("train", "train", "\n".join([*lines, COMMON])),
        document("copy", "held_out", "\n".join(f"+    {line}" for line in lines)),
        document("new", "held_out", "\n".join(f"fn brand_new_{n}() {{}}" for n in range(8))),
        document(
            "half",
            "held_out",
            "\n".join([*lines[:4], *(f"fn new_{n}() -> u64 {{" for n in range(4))]),
        ),
        document("short", "held_out", "}\n\n" + COMMON),
        document("unasked", "held_out", "\n".join(lines)),
    ]
    table = save_table(tmp_path / "d", DOCUMENTS, [pa.Table.from_pylist(rows, DOCUMENTS)])
    overlap = train_overlap_by_document(table, ["copy", "new", "half", "short"])
    assert overlap == {"copy": 1.0, "new": 0.0, "half": 0.5}


def test_without_documents_there_is_no_overlap(tmp_path):
    assert train_overlap_by_document(save_table(tmp_path / "d", DOCUMENTS, []), ["a"]) == {}


def test_the_overlap_of_a_source_is_the_minimum_over_its_documents(tmp_path):
    lines = [f"let number_{n} = {n} * factor;" for n in range(8)]
    new = "\n".join(f"fn brand_new_{n}() {{}}" for n in range(8))
    rows = [
        document("train", "train", "\n".join(lines)),
        {**document("copy", "held_out", "\n".join(lines)), "source": "sha1"},
        {**document("twice", "held_out", "\n".join(lines)), "source": "sha2"},
        {**document("news", "held_out", new), "source": "sha2"},
    ]
    table = save_table(tmp_path / "d", DOCUMENTS, [pa.Table.from_pylist(rows, DOCUMENTS)])
    train_overlap = measure_train_overlap(table)
    assert train_overlap.by_source == {"sha1": 1.0, "sha2": 0.0}
    items = [ChoiceItem("t", sha, sha, "", (" a", " b"), 0) for sha in ("sha1", "sha2", "sha3")]
    assert [item.train_overlap for item in add_train_overlap(items, train_overlap)] == [
        1.0,
        0.0,
        0.0,
    ]
