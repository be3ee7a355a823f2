"""The layerwise engine on a GPU: bfloat16 and NF4, against transformers and against float32."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.builders.tiny_llama import tiny_profile
from tests.models.layerwise.small_models import WHOLE
from transformers import LlamaConfig, LlamaForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

from the_block_llm.models.adapter.adapters import attach_adapter
from the_block_llm.models.base.quantized_loading import load_base_model
from the_block_llm.models.collate import collate_flat_rows, collate_rows
from the_block_llm.models.layerwise.kernels.attention import Segments, attend, attend_backward
from the_block_llm.models.layerwise.kernels.fused import add_dropped, dropped
from the_block_llm.models.layerwise.model import load_layerwise_model
from the_block_llm.models.plain.loss import enable_chunked_loss
from the_block_llm.models.profiles import LoraSettings, ModelProfile

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
VOCABULARY = 8192
RESIDENT = replace(WHOLE, n_layers=4, n_resident=4)
FRUGAL = {
    "streamed layers": replace(RESIDENT, n_resident=0),
    "some layers streamed": replace(RESIDENT, n_resident=2),
    "output matrix in tiles": replace(RESIDENT, head_resident=False),
    "states in host memory": replace(RESIDENT, activations="host"),
    "states on disk": replace(RESIDENT, activations="disk"),
    "small tiles": replace(RESIDENT, mlp_tokens=192, loss_positions=128),
    "heads in groups": replace(RESIDENT, head_groups=2),
    "weights unpacked once": replace(RESIDENT, keep_unpacked=True),
    "everything": replace(
        RESIDENT, n_resident=0, head_resident=False, activations="host", mlp_tokens=256,
        head_groups=2, loss_positions=128, prefetch_states=False,
    ),
}  # fmt: skip
LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
STARCODER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj")


def _profile(folder: Path, model: Any, targets: tuple[str, ...]) -> ModelProfile:
    model.to(torch.bfloat16).save_pretrained(folder)
    lora = LoraSettings(r=16, alpha=32, dropout=0.0, target_modules=targets)
    return tiny_profile(folder).model_copy(update={"lora": lora})


def _llama(tied: bool, heads: int, keys: int, hidden: int, inner: int) -> LlamaForCausalLM:
    torch.manual_seed(4)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=4,
            num_attention_heads=heads,
            num_key_value_heads=keys,
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
            vocab_size=VOCABULARY,
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
    made = {
        "llama": (_llama(False, 8, 2, 1024, 2816), LLAMA_TARGETS),
        "tied": (_llama(True, 8, 4, 512, 1536), LLAMA_TARGETS),
        "starcoder2": (starcoder, STARCODER_TARGETS),
    }
    return {
        name: _profile(tmp_path_factory.mktemp(name.replace(" ", "-")), model, targets)
        for name, (model, targets) in made.items()
    }


@pytest.fixture(autouse=True)
def _memory_given_back() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


def random_rows(seed: int, lengths: tuple[tuple[int, ...], ...]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for segments in lengths:
        n_tokens = sum(segments)
        rows.append(
            {
                "input_ids": torch.randint(VOCABULARY, (n_tokens,), generator=generator).tolist(),
                "labels_mask": (torch.rand(n_tokens, generator=generator) < 0.7).tolist(),
                "segment_lengths": list(segments),
            }
        )
    return rows


ROWS = ((300, 212), (512,), (97, 1, 203, 211))


def plain(profile: ModelProfile, device: torch.device) -> PeftModel:
    base = load_base_model(profile, device)
    enable_chunked_loss(base)
    return attach_adapter(base, profile, seed=7)


def wake(model: PeftModel) -> PeftModel:
    """Give the second factor values, so that the first has gradients."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            values = torch.randn(parameter.shape, generator=generator) * 0.02
            parameter.data = values.to(parameter.device, parameter.dtype)
    return model.train()


def loss_of(model: PeftModel, rows: list[dict[str, Any]]) -> torch.Tensor:
    device = next(p.device for p in model.parameters() if p.requires_grad)
    flat = hasattr(model, "layerwise")
    inputs = collate_flat_rows(rows, 0) if flat else collate_rows(rows, 0)
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and not flat):
        loss: torch.Tensor = model(**inputs).loss
    return loss


def gradients(model: PeftModel, rows: list[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    loss = loss_of(model, rows)
    loss.backward()
    found = {
        name: parameter.grad.double().cpu().flatten()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return loss.item(), found


def cosine(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    left, right = (torch.cat([x[name] for name in first]) for x in (first, second))
    return float(torch.dot(left, right) / (left.norm() * right.norm()))


@pytest.mark.parametrize("name", ["llama", "tied", "starcoder2"])
def test_gradients_are_as_near_to_float32_as_those_of_transformers(
    profiles: dict[str, ModelProfile], name: str
) -> None:
    profile, rows = profiles[name], random_rows(1, ROWS)
    true_loss, truth = gradients(wake(plain(profile, CPU)), rows)
    plain_loss, expected = gradients(wake(plain(profile, GPU)), rows)
    our_loss, ours = gradients(wake(load_layerwise_model(profile, RESIDENT, GPU, seed=7)), rows)
    print(
        f"\n{name}: loss float32 {true_loss:.5f}, transformers {plain_loss:.5f}, ours "
        f"{our_loss:.5f}; cosine ours-transformers {cosine(ours, expected):.6f}, "
        f"transformers-float32 {cosine(expected, truth):.6f}, ours-float32 "
        f"{cosine(ours, truth):.6f}; worst matrix ours-float32 "
        f"{min(cosine({n: ours[n]}, {n: truth[n]}) for n in truth):.6f}, transformers-float32 "
        f"{min(cosine({n: expected[n]}, {n: truth[n]}) for n in truth):.6f}"
    )
    assert our_loss == pytest.approx(plain_loss, abs=1e-2)
    assert our_loss == pytest.approx(true_loss, abs=1e-2)
    assert cosine(ours, expected) >= 0.999
    assert 1 - cosine(ours, truth) <= 1.5 * (1 - cosine(expected, truth)) + 1e-6


@pytest.mark.parametrize("how", FRUGAL)
@pytest.mark.parametrize("name", ["llama", "tied"])
def test_every_way_to_save_memory_computes_the_same(
    profiles: dict[str, ModelProfile], name: str, how: str
) -> None:
    profile, rows = profiles[name], random_rows(2, ROWS)
    loss, expected = gradients(wake(load_layerwise_model(profile, RESIDENT, GPU, 7)), rows)
    frugal_loss, got = gradients(wake(load_layerwise_model(profile, FRUGAL[how], GPU, 7)), rows)
    print(f"\n{name}, {how}: loss {loss:.5f} {frugal_loss:.5f}, cosine {cosine(got, expected):.7f}")
    assert frugal_loss == pytest.approx(loss, rel=1e-3)
    assert cosine(got, expected) >= 0.9995


def test_documents_of_a_row_do_not_see_each_other(profiles: dict[str, ModelProfile]) -> None:
    model = wake(load_layerwise_model(profiles["llama"], RESIDENT, GPU, seed=7))
    [row] = random_rows(3, ((150, 250),))
    row["labels_mask"] = [False] * 150 + [True] * 250
    other = {**row, "input_ids": [5] * 150 + row["input_ids"][150:]}
    with torch.no_grad():
        assert loss_of(model, [row]).item() == pytest.approx(loss_of(model, [other]).item())
        row["segment_lengths"] = other["segment_lengths"] = [400]
        assert abs(loss_of(model, [row]).item() - loss_of(model, [other]).item()) > 1e-4


def _hundred_steps(model: PeftModel, rows: list[dict[str, Any]]) -> float:
    import bitsandbytes as bnb

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = bnb.optim.AdamW8bit(trained, lr=2e-4)
    model.train()
    for step in range(100):
        loss = loss_of(model, [rows[(2 * step + n) % len(rows)] for n in range(2)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return sum(loss_of(model, [row]).item() for row in rows) / len(rows)


def test_a_hundred_steps_end_where_those_of_transformers_end(
    profiles: dict[str, ModelProfile],
) -> None:
    profile = profiles["llama"]
    rows = random_rows(4, ((256,), (100, 156), (256,), (31, 225)))
    with torch.no_grad():
        before = loss_of(load_layerwise_model(profile, RESIDENT, GPU, 7).eval(), rows).item()
    expected = _hundred_steps(plain(profile, GPU), rows)
    ours = _hundred_steps(load_layerwise_model(profile, RESIDENT, GPU, 7), rows)
    narrow = _hundred_steps(
        load_layerwise_model(profile, FRUGAL["everything"], GPU, 7, torch.bfloat16), rows
    )
    print(
        f"\nloss before {before:.4f}; after 100 steps: transformers {expected:.4f}, ours "
        f"{ours:.4f}, ours with everything saved and a bfloat16 adapter {narrow:.4f}"
    )
    assert expected < 0.9 * before
    assert ours == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (5, 63), (300, 576), (2100, 4096), (33, 14_336)])
def test_dropout_falls_the_same_both_ways(shape: tuple[int, int]) -> None:
    n_rows, width = shape
    wide = torch.randn(n_rows, width + 24, device=GPU, dtype=torch.bfloat16)
    x = wide[:, :width]
    kept = dropped(torch.ones_like(x), 0.05, 2**40 + 7)
    assert torch.equal(dropped(x, 0.05, 2**40 + 7), (x.float() * (kept > 0) / 0.95).bfloat16())
    into = torch.randn_like(wide)[:, 8 : 8 + width]
    wanted = (into.float() + x.float() * (kept > 0) / 0.95).bfloat16()
    add_dropped(into, x, 0.05, 2**40 + 7)
    torch.testing.assert_close(into, wanted, rtol=0.01, atol=0.02)
    if x.numel() > 100_000:
        share = float((kept > 0).float().mean())
        assert abs(share - 0.95) < 5 * (0.05 * 0.95 / x.numel()) ** 0.5 + 1 / 65_536
        other = dropped(torch.ones_like(x), 0.05, 2**40 + 8)
        both = float(((kept == 0) & (other == 0)).float().mean())
        assert abs(both - 0.0025) < 5e-4
        columns = (kept > 0).float().mean(0)
        assert float((columns - 0.95).abs().max()) < 7 * (0.05 * 0.95 / n_rows) ** 0.5


def _peak_of_attention(lengths: list[int]) -> int:
    """Bytes at the worst moment of attention there and back over random heads."""
    segments = Segments.of_lengths(lengths, GPU)
    heads = torch.randn(sum(lengths), 12, 128, device=GPU, dtype=torch.bfloat16)
    slope = torch.randn(sum(lengths), 8, 128, device=GPU, dtype=torch.bfloat16)
    parts = heads.split([8, 2, 2], dim=1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats(GPU)
    output = attend(*parts, segments, None)
    attend_backward(slope, *parts, output, segments, None)
    return torch.cuda.max_memory_allocated(GPU)


def test_many_short_segments_take_no_more_memory_than_one_long_one() -> None:
    lengths = [700, *[40] * 1000, 23_000, *[30] * 61, 6]
    # Two of nearly one length: a single one would go through cuDNN.
    of_few = _peak_of_attention([sum(lengths) // 2, sum(lengths) - sum(lengths) // 2 - 2, 2])
    assert _peak_of_attention(lengths) <= 1.05 * of_few


@pytest.mark.parametrize("lengths", [[8, 3] * 4000, [1] * 20_000, [30_000, *[17] * 200]])
def test_runs_of_segments_give_what_segments_alone_give(lengths: list[int]) -> None:
    torch.manual_seed(2)
    segments = Segments.of_lengths(lengths, GPU)
    assert len(segments.runs) > 1
    heads = torch.randn(sum(lengths), 6, 64, device=GPU, dtype=torch.bfloat16)
    slope = torch.randn(sum(lengths), 4, 64, device=GPU, dtype=torch.bfloat16)
    parts = heads.split([4, 1, 1], dim=1)
    output = attend(*parts, segments, None)
    gradients = attend_backward(slope, *parts, output, segments, None)
    for at in range(0, len(lengths), max(1, len(lengths) // 40)):
        here = slice(segments.bounds[at], segments.bounds[at + 1])
        alone = Segments.of_lengths([lengths[at]], GPU)
        own = [part[here].float() for part in parts]
        exact = attend(*own, alone, None)
        wanted = attend_backward(slope[here].float(), *own, exact, alone, None)
        torch.testing.assert_close(output.values[here].float(), exact.values, rtol=0.02, atol=0.02)
        torch.testing.assert_close(gradients[here].float(), wanted, rtol=0.05, atol=0.05)
