"""The memory plan of plain training against measured memory, and the choices it makes."""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.builders.tiny_llama import save_tiny_llama, tiny_profile
from tests.pipelines.qlora_train.jobs import TEXT, row
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, Starcoder2Config

from the_block_llm.errors import AdapterTargetError, MemoryPlanError
from the_block_llm.models.adapter.adapters import attach_adapter
from the_block_llm.models.base.quantized_loading import disable_inference_repacking, load_base_model
from the_block_llm.models.collate import IGNORE_INDEX, collate_rows
from the_block_llm.models.plain.activation_tracer import ATTENTION, MLP, trace_pass
from the_block_llm.models.plain.chunked_loss import enable_chunked_loss
from the_block_llm.models.plain.memory_plan import (
    HEAP_ITEM,
    lower_mmap_threshold,
    plan_plain,
    resident_bytes,
)
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.qlora_train.runtime.memory_stats import (
    peak_memory_gib,
    reset_peak_memory,
)

CPU = torch.device("cpu")
AMPLE_BYTES = 2**40


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return tiny_profile(save_tiny_llama(tmp_path_factory.mktemp("base")))


def autograd_saved_bytes(model: Any, inputs: dict[str, torch.Tensor]) -> int:
    """Return the bytes that autograd saves for backward, without the weights."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = model.get_base_model().get_decoder()(
            input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False
        )
    n_bytes = sum(storage.nbytes() for storage in saved.values())
    del states
    return n_bytes


def test_traced_saved_activations_match_autograd(profile: ModelProfile) -> None:
    rows = [row(TEXT), row(TEXT)]
    for packed_row in rows:
        packed_row["segment_lengths"] = [30, len(TEXT) - 30]
    traced = trace_pass(AutoConfig.from_pretrained(str(profile.folder)), profile, 2, len(TEXT))
    base = load_base_model(profile, CPU)
    model = attach_adapter(base, profile, seed=0).train()
    disable_inference_repacking(model)
    saved = autograd_saved_bytes(model, collate_rows(rows, pad_token_id=3))
    # Besides these tensors only the position ids and the last hidden states are alive.
    assert sum(traced.saved_activation_bytes.values()) == pytest.approx(saved, rel=0.05)
    assert traced.saved_activation_bytes[MLP] > 0
    assert traced.saved_activation_bytes[ATTENTION] > 0


def measured_and_predicted_bytes(folder: Path) -> tuple[float, float]:
    """Return the bytes of a forward and backward pass; run in a new process (clean heap)."""
    folder = save_tiny_llama(folder)
    config = LlamaConfig(
        vocab_size=8000, hidden_size=256, intermediate_size=768, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    profile = tiny_profile(folder)
    profile = profile.model_copy(
        update={"lora": profile.lora.model_copy(update={"dropout": 0.05, "r": 16})}
    )
    lower_mmap_threshold()
    plan = plan_plain(profile, 512, 4, 4, AMPLE_BYTES)
    assert plan is not None
    base = load_base_model(profile, CPU)
    enable_chunked_loss(base)
    model = attach_adapter(base, profile, seed=0).train()
    disable_inference_repacking(model)
    ids = torch.randint(0, 8000, (4, 512))
    positions = torch.cat([torch.arange(200), torch.arange(312)]).expand(4, -1)
    labels = ids.clone()
    labels[:, 0] = IGNORE_INDEX
    before = resident_bytes()
    reset_peak_memory(CPU)
    model(input_ids=ids, position_ids=positions, labels=labels).loss.backward()
    measured = peak_memory_gib(CPU) * 2**30 - before
    predicted = sum(
        n_bytes
        for name, n_bytes in plan.device_items.items()
        if name.startswith(("saved activations", "temporary buffers")) or "gradient" in name
    )
    return measured, predicted


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is reset through /proc")
def test_predicted_peak_of_a_step_matches_measurement(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        measured, predicted = pool.submit(measured_and_predicted_bytes, tmp_path).result()
    assert measured == pytest.approx(predicted, rel=0.1)
    assert predicted > 100 * 2**20


def test_micro_batch_shrinks_to_fit_free_memory(profile: ModelProfile) -> None:
    required = {}
    for rows in (1, 2, 4):
        plan = plan_plain(profile, 2048, 4, rows, AMPLE_BYTES)
        assert plan is not None
        assert plan.micro_batch_rows == rows
        required[rows] = plan.required_bytes
    assert required[1] < required[2] < required[4]
    limited = plan_plain(profile, 2048, 4, 4, (required[2] + required[4]) // 2)
    assert limited is not None
    assert limited.micro_batch_rows == 2
    three = plan_plain(profile, 2048, 6, 4, AMPLE_BYTES)
    assert three is not None
    assert three.micro_batch_rows == 3, "a divisor of the effective batch"


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is specific to glibc")
def test_mmap_threshold_is_lowered_only_if_nothing_fits_otherwise(profile: ModelProfile) -> None:
    one = plan_plain(profile, 2048, 4, 1, AMPLE_BYTES)
    assert one is not None
    assert not one.lowers_mmap_threshold
    limited = plan_plain(profile, 2048, 4, 4, one.required_bytes - 2**20)
    assert limited is not None
    assert (limited.lowers_mmap_threshold, limited.micro_batch_rows) == (True, 1)
    assert "returned immediately" in limited.describe()
    assert limited.device_items[HEAP_ITEM] == 0


def test_error_names_the_nearest_setting_that_fits(profile: ModelProfile) -> None:
    one = plan_plain(profile, 2048, 4, 1, AMPLE_BYTES)
    half = plan_plain(profile, 1024, 4, 1, AMPLE_BYTES)
    assert one is not None
    assert half is not None
    with pytest.raises(MemoryPlanError, match=r"4 rows of 2,048 .*micro_batch_rows: 1 would fit"):
        plan_plain(profile, 2048, 4, 4, one.required_bytes, micro_batch_rows=4)
    with pytest.raises(MemoryPlanError, match=r"needs 0.*Rows of up to 1,024 tokens would fit"):
        plan_plain(profile, 2048, 4, 4, half.required_bytes)
    with pytest.raises(MemoryPlanError, match="layerwise"):
        plan_plain(profile, 2048, 4, 4, 1000)


def test_trace_supports_starcoder2_and_all_linear(profile: ModelProfile) -> None:
    config = Starcoder2Config(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    with pytest.raises(AdapterTargetError, match="down_proj"):
        trace_pass(config, profile, 1, 64)
    lora = profile.lora.model_copy(update={"target_modules": "all-linear"})
    traced = trace_pass(config, profile.model_copy(update={"lora": lora}), 1, 64)
    # By hand: q 64→64, k and v 64→32, o 64→64, c_fc 64→128, c_proj 128→64, in two layers.
    assert traced.trained_parameters == 2 * 4 * (128 + 96 + 96 + 128 + 192 + 192)
    assert traced.saved_activation_bytes[MLP] > 0
