"""The layerwise engine against transformers and peft: one loss, one set of gradients."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.builders.tiny_llama import byte_tokenizer, save_tiny_llama, tiny_profile
from transformers import LlamaConfig, LlamaForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

from the_block_llm.models.adapters import attach_adapter
from the_block_llm.models.layerwise.engine import EngineSettings
from the_block_llm.models.layerwise.model import load_layerwise_model
from the_block_llm.models.loading import load_base_model
from the_block_llm.models.loss import compute_loss_in_chunks
from the_block_llm.models.profiles import LoraSettings, ModelProfile
from the_block_llm.models.segments import collate_flat_rows, collate_rows

CPU = torch.device("cpu")
WHOLE = EngineSettings(
    n_layers=2,
    n_resident=2,
    head_resident=True,
    activations="device",
    mlp_tokens=4096,
    head_groups=1,
    loss_positions=256,
    prefetch_states=True,
)
COARSE_AND_FINE = [
    WHOLE,
    replace(WHOLE, head_groups=2),
    replace(WHOLE, mlp_tokens=7, loss_positions=3),
    replace(WHOLE, head_groups=2, mlp_tokens=16, loss_positions=1),
]
EVERY_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def save_untied_llama(folder: Path) -> ModelProfile:
    torch.manual_seed(1)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(byte_tokenizer()),
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


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProfile]:
    tied = tiny_profile(save_tiny_llama(tmp_path_factory.mktemp("tied")))
    all_linear = tied.model_copy(
        update={
            "lora": LoraSettings(r=5, alpha=8, dropout=0.0, target_modules=EVERY_LINEAR),
        }
    )
    return {
        "tied": tied,
        "untied": save_untied_llama(tmp_path_factory.mktemp("untied")),
        "every linear": all_linear,
        "starcoder2": save_starcoder2(tmp_path_factory.mktemp("starcoder2")),
    }


def random_rows(lengths: list[list[int]], seed: int, learned: float = 0.7) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for segments in lengths:
        n_tokens = sum(segments)
        rows.append(
            {
                "input_ids": torch.randint(4, 260, (n_tokens,), generator=generator).tolist(),
                "labels_mask": (torch.rand(n_tokens, generator=generator) < learned).tolist(),
                "segment_lengths": segments,
            }
        )
    return rows


def plain_model(profile: ModelProfile) -> PeftModel:
    base = load_base_model(profile, CPU)
    compute_loss_in_chunks(base)
    return attach_adapter(base, profile, seed=7)


def wake(model: PeftModel) -> PeftModel:
    """Give the second factor values, so that the first has gradients."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return model.train()


def adapter_gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }


def assert_same(ours: PeftModel, plain: PeftModel, rows: list[dict[str, Any]]) -> None:
    n_items = torch.tensor(11)
    for model in (ours, plain):
        model.zero_grad()
    expected = plain(**collate_rows(rows, 3), num_items_in_batch=n_items).loss
    expected.backward()
    loss = ours(**collate_flat_rows(rows, 3), num_items_in_batch=n_items).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)
    wanted = adapter_gradients(plain)
    got = adapter_gradients(ours)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = gradient.norm().clamp(min=1e-6)
        assert ((got[name] - gradient).norm() / scale).item() < 1e-5, name


@pytest.mark.parametrize("name", ["tied", "untied", "every linear", "starcoder2"])
@pytest.mark.parametrize("tiling", COARSE_AND_FINE)
def test_loss_and_gradients_are_those_of_transformers_and_peft(
    profiles: dict[str, ModelProfile], name: str, tiling: EngineSettings
) -> None:
    profile = profiles[name]
    ours = wake(load_layerwise_model(profile, tiling, CPU, seed=7))
    assert_same(ours, wake(plain_model(profile)), random_rows([[20, 13], [9, 1, 25]], seed=5))
