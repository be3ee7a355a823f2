"""The memory plan of Llama-3.1-8B, computed without weights and without a GPU."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig

from the_block_llm.errors import MemoryPlanError
from the_block_llm.models.layerwise.architecture import DecoderShape, decoder_shape
from the_block_llm.models.layerwise.planner.cost_model import DeviceRates
from the_block_llm.models.layerwise.planner.memory_model import (
    TrainingWorkload,
    device_items,
    host_bytes,
)
from the_block_llm.models.layerwise.planner.plan_search import GIB, MemoryPlan, plan_training
from the_block_llm.models.resource_limits import LayerChoice

# Approximate rates of a fast card on PCIe 5.
RATES = DeviceRates(matmul_flops_per_s=6e14, memory_bytes_per_s=2e12, host_bytes_per_s=5e10)
AMPLE_BYTES = 200 * GIB


def llama_shape(
    vocab_size: int, hidden_size: int, intermediate_size: int, *, n_layers: int, n_heads: int,
    n_kv_heads: int, tied: bool,
) -> DecoderShape:  # fmt: skip
    shape = decoder_shape(
        LlamaConfig(
            vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=intermediate_size,
            num_hidden_layers=n_layers, num_attention_heads=n_heads,
            num_key_value_heads=n_kv_heads, tie_word_embeddings=tied,
        )
    )  # fmt: skip
    assert shape is not None
    return shape


@pytest.fixture(scope="module")
def shape() -> DecoderShape:
    return llama_shape(128_256, 4096, 14_336, n_layers=32, n_heads=32, n_kv_heads=8, tied=False)


def workload_of(shape: DecoderShape, row_tokens: int, **options: int) -> TrainingWorkload:
    targets = frozenset({"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"})
    return TrainingWorkload(
        shape, 32, targets, row_tokens, options.pop("effective_rows", 1), **options
    )


def best_plan(
    shape: DecoderShape, row_tokens: int, gib: float, host_bytes: int = AMPLE_BYTES, rows: int = 1,
    layers: LayerChoice = "auto",
) -> MemoryPlan:  # fmt: skip
    workload = workload_of(shape, row_tokens, effective_rows=rows)
    return plan_training(workload, int(gib * GIB), host_bytes, RATES, layers)


def test_trained_parameters_match_peft(shape: DecoderShape) -> None:
    assert workload_of(shape, 1024).trained_parameters == 56_623_104
    # Two matrices of four rows.
    assert (
        workload_of(shape, 1024, n_added_tokens=4).trained_parameters == 56_623_104 + 2 * 4 * 4096
    )


@pytest.mark.parametrize(
    ("gib", "row_tokens"), [(7.0, 1024), (7.0, 65_536), (7.0, 131_072), (3.0, 32_768), (1.6, 1024)]
)
def test_a_plan_fits_its_memory(shape: DecoderShape, gib: float, row_tokens: int) -> None:
    plan = best_plan(shape, row_tokens, gib)
    assert plan.reserved_bytes <= gib * GIB
    workload = workload_of(shape, row_tokens)
    assert plan.device_items == device_items(
        workload, plan.settings, row_tokens, plan.adapter_dtype
    )
    # States take 256 KiB per token.
    if plan.settings.activations == "host":
        assert plan.host_bytes >= 256 * 1024 * row_tokens


def test_predictions_match_measured_peaks(shape: DecoderShape) -> None:
    """docs/experiments.md: 4.62 GiB for one row of 65,536 and 2.52 for one of 32,768."""
    assert best_plan(shape, 65_536, 7.0).device_bytes / GIB == pytest.approx(4.62, rel=0.05)
    assert best_plan(shape, 32_768, 3.0).device_bytes / GIB == pytest.approx(2.52, rel=0.05)


def test_more_memory_is_never_slower_and_allows_larger_micro_batches(shape: DecoderShape) -> None:
    plans = [best_plan(shape, 1024, gib, rows=8) for gib in (1.3, 2.0, 7.0, 16.0)]
    times = [plan.seconds_per_step for plan in plans]
    # Of the plans within 1 % of the fastest, the smallest is chosen.
    assert all(more <= 1.01 * less for less, more in pairwise(times))
    assert plans[-1].micro_batch_rows > plans[0].micro_batch_rows
    assert all(8 % plan.micro_batch_rows == 0 for plan in plans)


def test_layers_are_resident_or_streamed_on_request(shape: DecoderShape) -> None:
    resident = best_plan(shape, 1024, 7.0, layers="resident")
    streamed = best_plan(shape, 1024, 7.0, layers="streamed")
    assert resident.settings.n_resident_layers == 32
    assert streamed.settings.n_resident_layers == 0
    assert resident.device_bytes - streamed.device_bytes > 2.5 * GIB
    assert streamed.host_bytes - resident.host_bytes > 3 * GIB
    assert "all layers resident" in resident.describe()
    assert "all layers streamed" in streamed.describe()


def test_a_small_model_on_a_large_card_is_not_split() -> None:
    """It is launch-bound: groups, tiles and streaming only add launches."""
    small = llama_shape(49_152, 576, 1536, n_layers=30, n_heads=9, n_kv_heads=3, tied=True)
    settings = best_plan(small, 512, 70.0, rows=32).settings
    assert (settings.head_groups, settings.activations) == (1, "device")
    assert settings.n_resident_layers >= 25  # the smallest of equally fast plans
    assert settings.mlp_tile_tokens >= 8192
    assert settings.is_head_resident


def test_states_are_stored_on_disk_if_host_memory_is_short(shape: DecoderShape) -> None:
    # Streamed layers, embedding and output matrix take 5.5 GiB; the states 8 more.
    plan = best_plan(shape, 32_768, 3.0, host_bytes=9 * GIB)
    assert plan.settings.activations == "disk"
    assert plan.host_bytes <= 9 * GIB
    assert "disk" in plan.describe()


@pytest.mark.parametrize(
    ("row_tokens", "gib", "host_gib", "layers", "message"),
    [
        (131_072, 3.0, 64, "auto", r"3\.00 and 64\.0 GiB are free.*Rows of up to 32,768 tokens"),
        (1024, 0.5, 64, "auto", r"needs at least .*smaller adapter"),
        (8192, 4.0, 64, "resident", r"qlora_train\.layers: auto would fit more"),
        (1024, 2.0, 2, "auto", r"GiB of host memory.*2\.0 GiB are free"),
    ],
)  # fmt: skip
def test_the_error_names_requirements_and_remedies(
    shape: DecoderShape, row_tokens: int, gib: float, host_gib: int, layers: LayerChoice,
    message: str,
) -> None:  # fmt: skip
    with pytest.raises(MemoryPlanError, match=message):
        best_plan(shape, row_tokens, gib, host_gib * GIB, layers=layers)


def test_the_suggested_row_length_fits(shape: DecoderShape) -> None:
    assert best_plan(shape, 32_768, 3.0, 64 * GIB).reserved_bytes <= 3 * GIB


def test_unified_memory_plans_do_not_offload(shape: DecoderShape) -> None:
    workload = replace(workload_of(shape, 4096), dtype=torch.float32)
    plan = plan_training(workload, AMPLE_BYTES, AMPLE_BYTES, RATES, unified_memory=True)
    assert plan.settings.n_resident_layers == 32
    assert plan.settings.activations == "device"
    assert plan.settings.is_head_resident
    tight = plan_training(workload, 24 * GIB, AMPLE_BYTES, RATES, unified_memory=True)
    assert tight.reserved_bytes + tight.host_bytes <= 24 * GIB
    assert host_bytes(workload, tight.settings, 4096) == 4 * 128_256 * 4096
