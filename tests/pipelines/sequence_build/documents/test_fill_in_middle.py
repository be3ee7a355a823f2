from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders.documents import make_file_document

from the_block_llm.errors import ProfileError
from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.document import RenderedDocument
from the_block_llm.pipelines.sequence_build.documents.fill_in_middle import apply_fim
from the_block_llm.pipelines.sequence_build.tokenization.document_table import document_batches
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import DocumentTokenizer


def fim_documents(
    text: str, spm_fraction: float, context_tokens: int = 400
) -> list[RenderedDocument]:
    return list(apply_fim([make_file_document(text)], context_tokens, 1.0, spm_fraction, seed=1))


TEXT = "import os\n\n\ndef f():\n    return 1\n\n\ndef g():\n    return 2\n"


def test_prefix_suffix_middle_order(starcoder: ModelProfile) -> None:
    [document] = fim_documents(TEXT, spm_fraction=0)
    tokenizer = load_tokenizer(starcoder)
    [ids] = DocumentTokenizer(tokenizer, starcoder).encode([document])
    decoded = tokenizer.decode(ids.input_ids)
    prefix, rest = decoded.removeprefix("<fim_prefix>File a.py:\n\n").split("<fim_suffix>")
    suffix, middle = rest.removesuffix("<|endoftext|>").split("<fim_middle>")
    assert prefix + middle + suffix == TEXT
    assert middle
    # The special tokens and the path are context.
    targets = tokenizer.decode(ids.input_ids[ids.labels_mask])
    assert targets == f"{prefix}{suffix}{middle}<|endoftext|>"


def test_suffix_prefix_middle_order(starcoder: ModelProfile) -> None:
    [document] = fim_documents(TEXT, spm_fraction=1)
    tokenizer = load_tokenizer(starcoder)
    [ids] = DocumentTokenizer(tokenizer, starcoder).encode([document])
    decoded = tokenizer.decode(ids.input_ids)
    suffix, rest = decoded.removeprefix("<fim_prefix><fim_suffix>").split("<fim_middle>")
    body = rest.removeprefix("File a.py:\n\n").removesuffix("<|endoftext|>")
    assert body + suffix == TEXT


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text(st.sampled_from("ab é👍"), max_size=30), min_size=1, max_size=40),
    spm=st.floats(0, 1),
)
def test_chunks_contain_every_character_once(lines: list[str], spm: float) -> None:
    text = "\n".join(lines) or "x"
    documents = fim_documents(text, spm, context_tokens=24)
    body = "".join(
        segment.text for document in documents for segment in document.segments if segment.train
    )
    assert sorted(body) == sorted(text)
    plain = [document.fallback or document for document in documents]
    assert "".join(s.text for d in plain for s in d.segments if s.train) == text


def test_document_longer_than_a_row_is_replaced_by_its_fallback(
    starcoder: ModelProfile,
) -> None:
    # One token per byte: chunks sized for 2.5 bytes per token are far too long.
    documents = fim_documents(TEXT * 20, spm_fraction=0.5, context_tokens=128)
    tokenizer = DocumentTokenizer(load_tokenizer(starcoder), starcoder)
    [batch] = document_batches(documents, tokenizer, 128)
    ids = batch["document_id"].to_pylist()
    assert ids
    is_long = [n > 128 for n in batch["n_tokens"].to_pylist()]
    is_fim = [id_.startswith("file-in-the-middle/") for id_ in ids]
    assert not any(long and fim for long, fim in zip(is_long, is_fim, strict=True))


def test_held_out_files_are_not_converted() -> None:
    held_out = make_file_document(TEXT, split="held_out")
    assert list(apply_fim([held_out], 400, 1.0, 0.5, seed=1)) == [held_out]


def test_tokenizer_without_fim_tokens_is_an_error(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    from tests.pipelines.sequence_build.test_nodes import Run

    completion = smollm2_profile.model_copy(update={"role": "completion"})
    with pytest.raises(ProfileError, match=r"lacks <fim_prefix>, <fim_suffix>.*fim_share"):
        Run(tmp_path, long_story.tables(tmp_path, 0.85), completion)


def test_completion_model_gets_fim_documents(
    tmp_path: Path, long_story: Any, starcoder: ModelProfile
) -> None:
    from tests.pipelines.sequence_build.test_nodes import Run

    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), starcoder, fim_share=1.0,
              context_tokens=8192)  # fmt: skip
    assert run.report["train_middle_last_documents"] > 0
    assert run.report["train_longer_than_a_row_documents"] == 0
