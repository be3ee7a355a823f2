"""A model trained on a toy repository is judged better; a scrambled one is not."""

from dataclasses import replace

import pytest
import torch
from tests.builders.tiny_llama import byte_tokenizer, tiny_llama

from the_block_llm.models.collate import collate_rows
from the_block_llm.pipelines.behavioral_eval.analysis.paired_metrics import pair_metrics
from the_block_llm.pipelines.behavioral_eval.analysis.verdict import (
    judge_comparisons,
    reach_verdict,
)
from the_block_llm.pipelines.behavioral_eval.held_out.bits_per_byte import DocumentSource
from the_block_llm.pipelines.behavioral_eval.runner.evaluated_model import EvaluatedModel
from the_block_llm.pipelines.behavioral_eval.runner.likelihood import measure_held_out

PLAIN = ("base", "tuned")
N_HELD_OUT = 16


def text(number: int) -> str:
    """Text of a file; all files have the same style."""
    return f"pub fn settle_{number}(ledger: &mut Ledger) -> u64 {{ ledger.settle({number}) }}\n"


def rows_of(tokenizer, numbers):
    rows = []
    for number in numbers:
        ids = tokenizer(text(number))["input_ids"]
        rows.append(
            {
                "input_ids": ids,
                "labels_mask": [True] * len(ids),
                "segment_lengths": [len(ids)],
                "document_ids": [f"d{number}"],
            }
        )
    return rows


@pytest.fixture(scope="module")
def trained_model() -> EvaluatedModel:
    from peft import LoraConfig, get_peft_model

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
    model = get_peft_model(tiny_llama(), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    batch = collate_rows(rows_of(tokenizer, range(100, 140)), tokenizer.pad_token_id)
    for _ in range(40):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return EvaluatedModel(model.eval(), tokenizer, "advisor", "tiny", "trained")


def verdict_of(evaluated_model: EvaluatedModel, folder) -> str:
    rows = list(enumerate(rows_of(evaluated_model.tokenizer, range(N_HELD_OUT))))
    sources = {f"d{number}": DocumentSource("file", f"{number}.rs") for number in range(N_HELD_OUT)}
    scores = measure_held_out(evaluated_model, rows, sources, PLAIN, folder)
    metrics = pair_metrics([], scores, "base", "tuned")
    return reach_verdict(judge_comparisons([m.compare(2000, 0) for m in metrics])).outcome


def test_a_trained_model_is_judged_better(trained_model, tmp_path):
    assert verdict_of(trained_model, tmp_path) == "better"


def test_a_scrambled_adapter_is_not_judged_better(trained_model, tmp_path):
    generator = torch.Generator().manual_seed(1)
    original = {}
    with torch.no_grad():
        for name, parameter in trained_model.model.named_parameters():
            if "lora_" in name:
                original[name] = parameter.clone()
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    assert verdict_of(replace(trained_model, adapter_id="scrambled"), tmp_path) != "better"
    with torch.no_grad():
        for name, parameter in trained_model.model.named_parameters():
            if name in original:
                parameter.copy_(original[name])


def test_base_against_base_shows_no_difference(trained_model, tmp_path):
    with trained_model.model.disable_adapter():
        assert (
            verdict_of(replace(trained_model, adapter_id="none"), tmp_path) == "no difference shown"
        )
