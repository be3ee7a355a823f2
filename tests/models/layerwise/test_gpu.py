"""The layerwise engine on a GPU in bfloat16 and NF4, against transformers and float32."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.builders.tiny_llama import tiny_profile
from tests.models.layerwise.small_models import FULL_MEMORY
from transformers import LlamaConfig, LlamaForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

from the_block_llm.models.adapter.adapters import attach_adapter
from the_block_llm.models.base.quantized_loading import load_base_model
from the_block_llm.models.collate import collate_flat_rows, collate_rows
from the_block_llm.models.layerwise.kernels.attention import (
    Segments,
    varlen_attention,
    varlen_attention_backward,
)
from the_block_llm.models.layerwise.kernels.dropout import dropout, dropout_backward
from the_block_llm.models.layerwise.model import load_layerwise_model
from the_block_llm.models.plain.chunked_loss import enable_chunked_loss
from the_block_llm.models.profiles import LoraSettings, ModelProfile

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
VOCAB_SIZE = 8192
RESIDENT = replace(FULL_MEMORY, n_layers=4, n_resident_layers=4)
LOW_MEMORY = {
    "streamed layers": replace(RESIDENT, n_resident_layers=0),
    "some layers streamed": replace(RESIDENT, n_resident_layers=2),
    "output matrix in tiles": replace(RESIDENT, is_head_resident=False),
    "states in host memory": replace(RESIDENT, activations="host"),
    "states on disk": replace(RESIDENT, activations="disk"),
    "small tiles": replace(RESIDENT, mlp_tile_tokens=192, loss_chunk_tokens=128),
    "heads in groups": replace(RESIDENT, head_groups=2),
    "weights dequantized once": replace(RESIDENT, keep_dequantized=True),
    "all together": replace(
        RESIDENT, n_resident_layers=0, is_head_resident=False, activations="host",
        mlp_tile_tokens=256, head_groups=2, loss_chunk_tokens=128, prefetch_activations=False,
    ),
}  # fmt: skip
LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
STARCODER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj")
SEGMENT_LENGTHS = ((300, 212), (512,), (97, 1, 203, 211))


def _save_profile(folder: Path, model: Any, targets: tuple[str, ...]) -> ModelProfile:
    model.to(torch.bfloat16).save_pretrained(folder)
    lora = LoraSettings(r=16, alpha=32, dropout=0.0, target_modules=targets)
    return tiny_profile(folder).model_copy(update={"lora": lora})


def _llama(
    tied: bool, n_heads: int, n_kv_heads: int, hidden_size: int, intermediate_size: int
) -> LlamaForCausalLM:
    torch.manual_seed(4)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=4,
            num_attention_heads=n_heads,
            num_key_value_heads=n_kv_heads,
            max_position_embeddings=4096,
            initializer_range=0.04,
            tie_word_embeddings=tied,
        )
    )


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProfile]:
    torch.manual_seed(5)
    starcoder = Starcoder2ForCausalLM(
        Starcoder2Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=2,
            sliding_window=128,
            initializer_range=0.04,
            residual_dropout=0.0,
            attention_dropout=0.0,
            embedding_dropout=0.0,
        )
    )
    models = {
        "llama": (_llama(False, 8, 2, 1024, 2816), LLAMA_TARGETS),
        "tied": (_llama(True, 8, 4, 512, 1536), LLAMA_TARGETS),
        "starcoder2": (starcoder, STARCODER_TARGETS),
    }
    return {
        name: _save_profile(tmp_path_factory.mktemp(name), model, targets)
        for name, (model, targets) in models.items()
    }


@pytest.fixture(autouse=True)
def _empty_cuda_cache() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


def random_rows(seed: int, lengths: tuple[tuple[int, ...], ...]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for segments in lengths:
        n_tokens = sum(segments)
        rows.append(
            {
                "input_ids": torch.randint(VOCAB_SIZE, (n_tokens,), generator=generator).tolist(),
                "labels_mask": (torch.rand(n_tokens, generator=generator) < 0.7).tolist(),
                "segment_lengths": list(segments),
            }
        )
    return rows


def load_plain_model(profile: ModelProfile, device: torch.device) -> PeftModel:
    base = load_base_model(profile, device)
    enable_chunked_loss(base)
    return attach_adapter(base, profile, seed=7)


def randomize_lora_b(model: PeftModel) -> PeftModel:
    """Replace B, which is initialized to zero, so that A has gradients."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            values = torch.randn(parameter.shape, generator=generator) * 0.02
            parameter.data = values.to(parameter.device, parameter.dtype)
    return model.train()


def compute_loss(model: PeftModel, rows: list[dict[str, Any]]) -> torch.Tensor:
    device = next(p.device for p in model.parameters() if p.requires_grad)
    is_layerwise = hasattr(model, "layerwise")
    inputs = collate_flat_rows(rows, 0) if is_layerwise else collate_rows(rows, 0)
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    with_autocast = device.type == "cuda" and not is_layerwise
    with torch.autocast(device.type, torch.bfloat16, enabled=with_autocast):
        loss: torch.Tensor = model(**inputs).loss
    return loss


def loss_and_grads(model: PeftModel, rows: list[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    loss = compute_loss(model, rows)
    loss.backward()
    grads = {
        name: parameter.grad.double().cpu().flatten()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return loss.item(), grads


def cosine(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Cosine similarity of two sets of gradients."""
    assert first.keys() == second.keys()
    left, right = (torch.cat([grads[name] for name in first]) for grads in (first, second))
    return float(torch.dot(left, right) / (left.norm() * right.norm()))


def lowest_cosine(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The lowest cosine similarity of a single matrix's gradient."""
    return min(cosine({name: first[name]}, {name: second[name]}) for name in second)


@pytest.mark.parametrize("name", ["llama", "tied", "starcoder2"])
def test_gradients_are_as_close_to_float32_as_those_of_transformers(
    profiles: dict[str, ModelProfile], name: str
) -> None:
    profile, rows = profiles[name], random_rows(1, SEGMENT_LENGTHS)
    exact_loss, exact = loss_and_grads(randomize_lora_b(load_plain_model(profile, CPU)), rows)
    plain_loss, plain = loss_and_grads(randomize_lora_b(load_plain_model(profile, GPU)), rows)
    model = load_layerwise_model(profile, RESIDENT, GPU, seed=7)
    loss, grads = loss_and_grads(randomize_lora_b(model), rows)
    print(
        f"\n{name}: loss float32 {exact_loss:.5f}, transformers {plain_loss:.5f}, layerwise "
        f"{loss:.5f}; cosine layerwise-transformers {cosine(grads, plain):.6f}, "
        f"transformers-float32 {cosine(plain, exact):.6f}, layerwise-float32 "
        f"{cosine(grads, exact):.6f}; worst matrix layerwise-float32 "
        f"{lowest_cosine(grads, exact):.6f}, transformers-float32 {lowest_cosine(plain, exact):.6f}"
    )
    assert loss == pytest.approx(plain_loss, abs=1e-2)
    assert loss == pytest.approx(exact_loss, abs=1e-2)
    assert cosine(grads, plain) >= 0.999
    assert 1 - cosine(grads, exact) <= 1.5 * (1 - cosine(plain, exact)) + 1e-6


@pytest.mark.parametrize("setting", LOW_MEMORY)
@pytest.mark.parametrize("name", ["llama", "tied"])
def test_low_memory_settings_give_the_same_gradients(
    profiles: dict[str, ModelProfile], name: str, setting: str
) -> None:
    profile, rows = profiles[name], random_rows(2, SEGMENT_LENGTHS)
    resident_model = load_layerwise_model(profile, RESIDENT, GPU, 7)
    expected_loss, expected = loss_and_grads(randomize_lora_b(resident_model), rows)
    low_memory_model = load_layerwise_model(profile, LOW_MEMORY[setting], GPU, 7)
    loss, grads = loss_and_grads(randomize_lora_b(low_memory_model), rows)
    print(
        f"\n{name}, {setting}: loss {expected_loss:.5f} {loss:.5f}, "
        f"cosine {cosine(grads, expected):.7f}"
    )
    assert loss == pytest.approx(expected_loss, rel=1e-3)
    assert cosine(grads, expected) >= 0.9995


def test_documents_in_a_row_do_not_attend_to_each_other(
    profiles: dict[str, ModelProfile],
) -> None:
    model = randomize_lora_b(load_layerwise_model(profiles["llama"], RESIDENT, GPU, seed=7))
    [row] = random_rows(3, ((150, 250),))
    row["labels_mask"] = [False] * 150 + [True] * 250
    other = {**row, "input_ids": [5] * 150 + row["input_ids"][150:]}
    with torch.no_grad():
        assert compute_loss(model, [row]).item() == pytest.approx(
            compute_loss(model, [other]).item()
        )
        row["segment_lengths"] = other["segment_lengths"] = [400]
        assert abs(compute_loss(model, [row]).item() - compute_loss(model, [other]).item()) > 1e-4


def _loss_after_100_steps(model: PeftModel, rows: list[dict[str, Any]]) -> float:
    import bitsandbytes as bnb

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = bnb.optim.AdamW8bit(trained, lr=2e-4)
    model.train()
    for step in range(100):
        loss = compute_loss(model, [rows[(2 * step + n) % len(rows)] for n in range(2)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return sum(compute_loss(model, [row]).item() for row in rows) / len(rows)


def test_loss_after_100_steps_matches_transformers(profiles: dict[str, ModelProfile]) -> None:
    profile = profiles["llama"]
    rows = random_rows(4, ((256,), (100, 156), (256,), (31, 225)))
    with torch.no_grad():
        model = load_layerwise_model(profile, RESIDENT, GPU, 7).eval()
        initial_loss = compute_loss(model, rows).item()
    del model
    plain_loss = _loss_after_100_steps(load_plain_model(profile, GPU), rows)
    loss = _loss_after_100_steps(load_layerwise_model(profile, RESIDENT, GPU, 7), rows)
    low_memory_loss = _loss_after_100_steps(
        load_layerwise_model(profile, LOW_MEMORY["all together"], GPU, 7, torch.bfloat16), rows
    )
    print(
        f"\ninitial loss {initial_loss:.4f}; after 100 steps: transformers {plain_loss:.4f}, "
        f"layerwise {loss:.4f}, layerwise with all savings and a bfloat16 adapter "
        f"{low_memory_loss:.4f}"
    )
    assert plain_loss < 0.9 * initial_loss
    assert loss == pytest.approx(plain_loss, rel=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (5, 63), (300, 576), (2100, 4096), (33, 14_336)])
def test_dropout_uses_the_same_mask_in_both_passes(shape: tuple[int, int]) -> None:
    n_rows, width = shape
    padded = torch.randn(n_rows, width + 24, device=GPU, dtype=torch.bfloat16)
    x = padded[:, :width]
    mask = dropout(torch.ones_like(x), 0.05, 2**40 + 7)
    assert torch.equal(dropout(x, 0.05, 2**40 + 7), (x.float() * (mask > 0) / 0.95).bfloat16())
    grad_input = torch.randn_like(padded)[:, 8 : 8 + width]
    expected = (grad_input.float() + x.float() * (mask > 0) / 0.95).bfloat16()
    dropout_backward(x, grad_input, 0.05, 2**40 + 7)
    torch.testing.assert_close(grad_input, expected, rtol=0.01, atol=0.02)
    if x.numel() > 100_000:
        kept_fraction = float((mask > 0).float().mean())
        assert abs(kept_fraction - 0.95) < 5 * (0.05 * 0.95 / x.numel()) ** 0.5 + 1 / 65_536
        other = dropout(torch.ones_like(x), 0.05, 2**40 + 8)
        dropped_in_both = float(((mask == 0) & (other == 0)).float().mean())
        assert abs(dropped_in_both - 0.0025) < 5e-4
        column_means = (mask > 0).float().mean(0)
        assert float((column_means - 0.95).abs().max()) < 7 * (0.05 * 0.95 / n_rows) ** 0.5


def _attention_peak_bytes(lengths: list[int]) -> int:
    """Peak memory of attention, forward and backward, over random heads."""
    segments = Segments.from_lengths(lengths, GPU)
    heads = torch.randn(sum(lengths), 12, 128, device=GPU, dtype=torch.bfloat16)
    grad_output = torch.randn(sum(lengths), 8, 128, device=GPU, dtype=torch.bfloat16)
    qkv = heads.split([8, 2, 2], dim=1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats(GPU)
    attention = varlen_attention(*qkv, segments, None)
    varlen_attention_backward(grad_output, *qkv, attention, segments, None)
    return torch.cuda.max_memory_allocated(GPU)


def test_many_short_segments_take_no_more_memory_than_long_ones() -> None:
    lengths = [700, *[40] * 1000, 23_000, *[30] * 61, 6]
    # Two of almost the same length: a single one would use cuDNN.
    long_lengths = [sum(lengths) // 2, sum(lengths) - sum(lengths) // 2 - 2, 2]
    long_peak_bytes = _attention_peak_bytes(long_lengths)
    assert _attention_peak_bytes(lengths) <= 1.05 * long_peak_bytes


@pytest.mark.parametrize("lengths", [[8, 3] * 4000, [1] * 20_000, [30_000, *[17] * 200]])
def test_chunks_of_segments_match_single_segments(lengths: list[int]) -> None:
    torch.manual_seed(2)
    segments = Segments.from_lengths(lengths, GPU)
    assert len(segments.chunks) > 1
    heads = torch.randn(sum(lengths), 6, 64, device=GPU, dtype=torch.bfloat16)
    grad_output = torch.randn(sum(lengths), 4, 64, device=GPU, dtype=torch.bfloat16)
    qkv = heads.split([4, 1, 1], dim=1)
    attention = varlen_attention(*qkv, segments, None)
    grads = varlen_attention_backward(grad_output, *qkv, attention, segments, None)
    for index in range(0, len(lengths), max(1, len(lengths) // 40)):
        tokens = slice(segments.bounds[index], segments.bounds[index + 1])
        single = Segments.from_lengths([lengths[index]], GPU)
        qkv_fp32 = [x[tokens].float() for x in qkv]
        exact = varlen_attention(*qkv_fp32, single, None)
        exact_grads = varlen_attention_backward(
            grad_output[tokens].float(), *qkv_fp32, exact, single, None
        )
        torch.testing.assert_close(
            attention.output[tokens].float(), exact.output, rtol=0.02, atol=0.02
        )
        torch.testing.assert_close(grads[tokens].float(), exact_grads, rtol=0.05, atol=0.05)
