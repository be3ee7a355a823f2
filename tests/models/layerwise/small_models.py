"""Small models of each architecture, and comparisons with the plain engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.builders.tiny_llama import byte_tokenizer, save_tiny_llama, tiny_profile
from transformers import LlamaConfig, LlamaForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

from the_block_llm.models.base.quantized_loading import disable_inference_repacking
from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.models.factory import TrainableModel, load_trainable
from the_block_llm.models.layerwise.engine import EngineSettings
from the_block_llm.models.layerwise.planner.plan_search import MemoryPlan
from the_block_llm.models.profiles import LoraSettings, ModelProfile

CPU = torch.device("cpu")
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADDED_TOKENS = {"<|code_start|>": 260, "<|analysis|>": 261, "<|question|>": 262}
FULL_MEMORY = EngineSettings(
    n_layers=2,
    n_resident_layers=9,
    is_head_resident=True,
    activations="device",
    mlp_tile_tokens=4096,
    head_groups=1,
    loss_chunk_tokens=256,
    prefetch_activations=True,
)


def save_profiles(folder: Path) -> dict[str, ModelProfile]:
    """Save small models and return their profiles.

    A Llama like SmolLM2 (tied), the same with LoRA on every Linear layer, one like Llama 3.1
    (untied, with rotary scaling), and a StarCoder2 with biases and a sliding window.
    """
    tied = tiny_profile(save_tiny_llama(folder / "tied"))
    all_linear = LoraSettings(r=5, alpha=8, dropout=0.0, target_modules=ALL_LINEAR)
    return {
        "tied": tied,
        "untied": save_untied_llama(folder / "untied"),
        "every linear": tied.model_copy(update={"lora": all_linear}),
        "starcoder2": save_starcoder2(folder / "starcoder2"),
        # Two more embedding rows than its tokenizer has tokens, like Qwen.
        "spare rows": save_untied_llama(folder / "spare", vocab_size=262),
    }


def save_untied_llama(folder: Path, vocab_size: int = 260) -> ModelProfile:
    torch.manual_seed(1)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.1,
            tie_word_embeddings=False,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        )
    ).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return tiny_profile(folder)


def save_starcoder2(folder: Path) -> ModelProfile:
    torch.manual_seed(2)
    model = Starcoder2ForCausalLM(
        Starcoder2Config(
            vocab_size=len(byte_tokenizer()),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=16,
            initializer_range=0.1,
            residual_dropout=0.0,
            attention_dropout=0.0,
            embedding_dropout=0.0,
            tie_word_embeddings=True,
        )
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return tiny_profile(folder).model_copy(
        update={
            "lora": LoraSettings(
                r=3,
                alpha=8,
                dropout=0.0,
                target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"),
            )
        }
    )


def random_rows(
    lengths: list[list[int]],
    seed: int,
    label_fraction: float = 0.7,
    first_id: int = 4,
    n_ids: int = 260,
) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for segments in lengths:
        n_tokens = sum(segments)
        rows.append(
            {
                "input_ids": torch.randint(
                    first_id, n_ids, (n_tokens,), generator=generator
                ).tolist(),
                "labels_mask": (
                    torch.rand(n_tokens, generator=generator) < label_fraction
                ).tolist(),
                "segment_lengths": segments,
            }
        )
    return rows


def load_model(
    profile: ModelProfile,
    settings: EngineSettings | None,
    added_tokens: Mapping[str, int] | None = None,
) -> TrainableModel:
    """Load the profile's model on the CPU, in the layerwise engine or, without settings, plain."""
    plan = None
    if settings is not None:
        plan = MemoryPlan(settings, 1, torch.float32, {}, 0, 0.0)
    tokenizer = load_tokenizer(profile, added_tokens or {})
    trainable = load_trainable(profile, 7, CPU, plan, tokenizer, added_tokens or {})
    # Repacked weights make some processors round to bfloat16 in inference.
    disable_inference_repacking(trainable.model)
    randomize_lora_b(trainable.model)
    return trainable


def randomize_lora_b(model: PeftModel) -> PeftModel:
    """Replace B, which is initialized to zero, so that A has gradients."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return model.train()


def gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the gradients of all trained parameters."""
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }


def loss_and_grads(
    trainable: TrainableModel, rows: list[dict[str, Any]]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Compute loss and gradients of a micro-batch."""
    model = trainable.model
    model.zero_grad()
    loss = model(**trainable.collate(rows), num_items_in_batch=torch.tensor(11)).loss
    loss.backward()
    return loss.item(), gradients(model)


def assert_equal_loss_and_grads(
    ours: TrainableModel, plain: TrainableModel, rows: list[dict[str, Any]]
) -> None:
    """Assert that both models have the same loss and gradients."""
    expected_loss, expected = loss_and_grads(plain, rows)
    loss, actual = loss_and_grads(ours, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-6, abs=1e-6)
    assert actual.keys() == expected.keys()
    # If the only label's token attends to nothing but itself, the gradient of its query is zero,
    # and both compute rounding errors relative to the other gradients.
    largest = max(gradient.norm().item() for gradient in expected.values())
    for name, gradient in expected.items():
        error = (actual[name] - gradient).norm().item()
        assert error <= 1e-5 * gradient.norm().item() + 1e-6 * largest, name
