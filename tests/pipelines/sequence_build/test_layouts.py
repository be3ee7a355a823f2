"""Curriculum stages and row lengths."""

import copy
from pathlib import Path
from typing import Any

import pytest
from tests.builders.documents import make_file_document

from the_block_llm.datasets.parquet_table import save_table
from the_block_llm.errors import ParameterError
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.packing.rows import pack_window
from the_block_llm.pipelines.sequence_build.packing.windows import plan_windows
from the_block_llm.pipelines.sequence_build.params import RowShape, SequenceBuildParams, row_shape
from the_block_llm.pipelines.sequence_build.tokenization.document_table import document_batches
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import DocumentTokenizer
from the_block_llm.schemas import DOCUMENTS, ROWS


def test_curriculum_rows_have_the_lengths_of_their_stages(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    from tests.pipelines.sequence_build.test_nodes import Run

    stages = [{"context_tokens": n} for n in (128, 256, 512)]
    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile, curriculum=stages)
    rows = list(run.rows["train"].rows(["stage", "n_tokens", "document_ids"]))
    assert [row["stage"] for row in rows] == sorted(row["stage"] for row in rows)
    assert {row["stage"] for row in rows} >= {2, 3}  # made-up words are dense
    assert all(row["n_tokens"] <= (128, 256, 512)[row["stage"] - 1] for row in rows)
    assert {row["stage"] for row in run.rows["held_out"].rows(["stage"])} == {0}
    assert run.row_facts["curriculum"][2] == {"stage": 3, "context_tokens": 512, "epochs": 2}
    # Every document is in the rows of exactly one stage.
    wanted = {
        row["document_id"]
        for row in run.documents.rows(["document_id", "split", "kind", "n_tokens"])
        if row["split"] == "train" and not (row["kind"] == "chat" and row["n_tokens"] > 512)
    }
    assert {name for row in rows for name in row["document_ids"]} == wanted


def test_default_curriculum_and_invalid_stages(smollm2_profile: ModelProfile) -> None:
    params = SequenceBuildParams(curriculum=True)
    shape = row_shape(params, smollm2_profile)
    assert (shape.context_tokens, shape.stage_tokens) == (1024, (256, 512, 1024))
    with pytest.raises(ParameterError, match="last stage .* 1024 tokens.*is 512"):
        row_shape(SequenceBuildParams(curriculum=True, context_tokens=512), smollm2_profile)
    with pytest.raises(ValueError, match="longer than the one before"):
        SequenceBuildParams.model_validate(
            {"curriculum": [{"context_tokens": 512}, {"context_tokens": 256}]}
        )


def test_chats_longer_than_a_row_are_left_out_and_counted(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    from tests.pipelines.sequence_build.test_nodes import Run

    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile, context_tokens=90,
              overlap_tokens=16)  # fmt: skip
    too_long = {
        row["document_id"]
        for row in run.documents.rows(["document_id", "kind", "split", "n_tokens"])
        if row["kind"] == "chat" and row["split"] == "train" and row["n_tokens"] > 90
    }
    assert run.report["train_longer_than_a_row_documents"] == len(too_long) > 0
    in_rows = {n for row in run.rows["train"].rows(["document_ids"]) for n in row["document_ids"]}
    assert not too_long & in_rows
    assert any("longer than a row of 90 tokens" in w for w in run.report["warnings"])


def test_rows_of_131072_tokens(tmp_path: Path, smollm2: Any, smollm2_profile: ModelProfile) -> None:
    tokenizer = DocumentTokenizer(copy.deepcopy(smollm2), smollm2_profile)
    texts = [f"def f{n}(x):\n    return x + {n}\n\n" * 12_000 for n in range(2)]
    written = [make_file_document(text, f"pkg/{n}.py") for n, text in enumerate(texts)]
    documents = save_table(tmp_path / "d", DOCUMENTS, document_batches(written, tokenizer, 131_072))
    shape = RowShape(131_072, 1024)
    [window] = plan_windows(documents, "train", shape)
    rows = save_table(
        tmp_path / "r", ROWS, pack_window(documents, window, shape, tokenizer.byte_lengths)
    )
    lengths = [row["n_tokens"] for row in rows.rows(["n_tokens"])]
    assert max(lengths) == 131_072
    assert len(lengths) == 3  # two texts of 168,000 tokens
    n_targets = sum(sum(row["labels_mask"]) for row in rows.rows(["labels_mask"]))
    assert n_targets == sum(sum(row["labels_mask"]) for row in documents.rows(["labels_mask"]))


def test_tokenizer_parallelism_does_not_change_documents(
    smollm2: Any, smollm2_profile: ModelProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = DocumentTokenizer(copy.deepcopy(smollm2), smollm2_profile)
    written = [make_file_document(f"x{n} = {n}\n" * n, f"{n}.py") for n in range(60)]
    made = []
    for parallel in ("false", "true"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        made.append(list(document_batches(written, tokenizer, 256)))
    assert made[0] == made[1]
