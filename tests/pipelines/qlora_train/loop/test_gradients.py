"""Packing and padding do not change the gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.builders.tiny_llama import tiny_profile
from tests.pipelines.qlora_train.jobs import row

from the_block_llm.models.adapter.adapters import attach_adapter
from the_block_llm.models.base.quantized_loading import disable_inference_repacking, load_base_model
from the_block_llm.models.collate import collate_rows
from the_block_llm.models.plain.chunked_loss import enable_chunked_loss

PAD = 3
DOCUMENTS = [
    row("a block is final after consensus", n_masked=8),
    row("two", n_masked=1),
    row("the ledger keeps every balance", n_masked=20),
]


def pack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "input_ids": [i for r in rows for i in r["input_ids"]],
        "labels_mask": [m for r in rows for m in r["labels_mask"]],
        "segment_lengths": [r["n_tokens"] for r in rows],
    }


def tiny_model_with_adapter(base: Path, in_chunks: bool) -> Any:
    """Return the tiny model with a non-zero adapter, so that A and B both have gradients."""
    profile = tiny_profile(base)
    model = load_base_model(profile, torch.device("cpu"))
    disable_inference_repacking(model)
    if in_chunks:
        enable_chunked_loss(model)
    model = attach_adapter(model, profile, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model.train()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def separate_gradients(base: Path) -> dict[str, torch.Tensor]:
    """Gradients of separate documents with the loss of transformers, as the reference."""
    model = tiny_model_with_adapter(base, in_chunks=False)
    targets = sum(sum(document["labels_mask"]) for document in DOCUMENTS)
    for document in DOCUMENTS:
        ids = torch.tensor(document["input_ids"])
        mask = torch.tensor(document["labels_mask"])
        labels = torch.where(mask, ids, -100)
        loss = model(ids[None], labels=labels[None]).loss
        (loss * int(mask.sum()) / targets).backward()
    return gradients(model)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([pack(DOCUMENTS)], id="packed into one row"),
        pytest.param([pack(DOCUMENTS[:2]), DOCUMENTS[2]], id="packed into two"),
        pytest.param(DOCUMENTS, id="padded to one length"),
    ],
)
def test_packed_rows_have_the_gradients_of_separate_documents(
    base: Path, separate_gradients: dict[str, torch.Tensor], rows: list[dict[str, Any]]
) -> None:
    model = tiny_model_with_adapter(base, in_chunks=True)
    model(**collate_rows(rows, PAD)).loss.backward()
    found = gradients(model)
    assert found.keys() == separate_gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, separate_gradients[name], rtol=1e-4, atol=1e-6)


def test_gradients_are_unchanged_after_validation(base: Path) -> None:
    """On some processors bitsandbytes repacks weights in eval mode, without a backward pass."""
    rows = collate_rows(DOCUMENTS, PAD)
    model = tiny_model_with_adapter(base, in_chunks=True)
    model(**rows).loss.backward()
    before = gradients(model)
    model.zero_grad()
    model.eval()
    with torch.no_grad():
        model(**rows)
    model.train()
    model(**rows).loss.backward()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, before[name]), name
