"""The memory plan of Llama-3.1-8B, by arithmetic alone: no weights, and no GPU."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig

from the_block_llm.errors import MemoryPlanError
from the_block_llm.models.layerwise.architecture import DecoderShape, decoder_shape
from the_block_llm.models.layerwise.planner.cost_model import DeviceRates
from the_block_llm.models.layerwise.planner.memory_model import (
    TrainingSize,
    device_items,
    host_bytes,
)
from the_block_llm.models.layerwise.planner.plan_search import GIB, MemoryPlan, plan_training
from the_block_llm.models.resource_limits import LayerChoice

# Round figures of a fast card on PCIe 5.
RATES = DeviceRates(matmul_flops=6e14, memory_bytes=2e12, host_bytes=5e10)
PLENTY = 200 * GIB


def llama_shape(
    vocabulary: int, hidden: int, inner: int, *, n_layers: int, heads: tuple[int, int], tied: bool
) -> DecoderShape:
    """A Llama of these sizes; ``heads`` of queries, and of keys and values."""
    found = decoder_shape(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner,
            num_hidden_layers=n_layers, num_attention_heads=heads[0],
            num_key_value_heads=heads[1], tie_word_embeddings=tied,
        )
    )  # fmt: skip
    assert found is not None
    return found


@pytest.fixture(scope="module")
def shape() -> DecoderShape:
    return llama_shape(128_256, 4096, 14_336, n_layers=32, heads=(32, 8), tied=False)


def size_of(shape: DecoderShape, row_tokens: int, **more: int) -> TrainingSize:
    targets = frozenset({"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"})
    return TrainingSize(shape, 32, targets, row_tokens, more.pop("effective_rows", 1), **more)


def best(
    shape: DecoderShape, row_tokens: int, gib: float, host: int = PLENTY, rows: int = 1,
    layers: LayerChoice = "auto",
) -> MemoryPlan:  # fmt: skip
    size = size_of(shape, row_tokens, effective_rows=rows)
    return plan_training(size, int(gib * GIB), host, RATES, layers)


def test_the_adapter_is_as_large_as_peft_counts_it(shape: DecoderShape) -> None:
    assert size_of(shape, 1024).trained_parameters == 56_623_104
    # Two matrices of four rows.
    assert size_of(shape, 1024, n_added=4).trained_parameters == 56_623_104 + 2 * 4 * 4096


@pytest.mark.parametrize(
    ("gib", "row_tokens"), [(7.0, 1024), (7.0, 65_536), (7.0, 131_072), (3.0, 32_768), (1.6, 1024)]
)
def test_a_plan_fits_what_it_was_made_for(shape: DecoderShape, gib: float, row_tokens: int) -> None:
    plan = best(shape, row_tokens, gib)
    assert plan.reserved_bytes <= gib * GIB
    size = size_of(shape, row_tokens)
    assert plan.device_items == device_items(size, plan.settings, row_tokens, plan.adapter_dtype)
    # 256 KiB a token for states, unless they stay or go to disk.
    if plan.settings.activations == "host":
        assert plan.host_bytes >= 256 * 1024 * row_tokens


def test_measured_peaks_are_foretold(shape: DecoderShape) -> None:
    """docs/experiments.md: 4.62 GiB for one row of 65,536 and 2.52 for one of 32,768."""
    assert best(shape, 65_536, 7.0).device_bytes / GIB == pytest.approx(4.62, rel=0.05)
    assert best(shape, 32_768, 3.0).device_bytes / GIB == pytest.approx(2.52, rel=0.05)


def test_more_memory_is_never_slower_and_buys_larger_micro_batches(shape: DecoderShape) -> None:
    plans = [best(shape, 1024, gib, rows=8) for gib in (1.3, 2.0, 7.0, 16.0)]
    times = [plan.seconds_per_step for plan in plans]
    # Of equally fast ones, within a hundredth, the smallest is taken.
    assert all(later <= 1.01 * sooner for sooner, later in pairwise(times))
    assert plans[-1].micro_batch_rows > plans[0].micro_batch_rows
    assert all(8 % plan.micro_batch_rows == 0 for plan in plans)


def test_layers_stay_or_are_streamed_as_asked(shape: DecoderShape) -> None:
    resident = best(shape, 1024, 7.0, layers="resident")
    streamed = best(shape, 1024, 7.0, layers="streamed")
    assert resident.settings.n_resident == 32
    assert streamed.settings.n_resident == 0
    assert resident.device_bytes - streamed.device_bytes > 2.5 * GIB
    assert streamed.host_bytes - resident.host_bytes > 3 * GIB
    assert "all layers resident" in resident.describe()
    assert "all layers streamed" in streamed.describe()


def test_a_small_model_on_a_large_card_is_cut_into_as_little_as_possible() -> None:
    """It waits for kernel launches alone: groups, tiles and streams only add to them."""
    small = llama_shape(49_152, 576, 1536, n_layers=30, heads=(9, 3), tied=True)
    settings = best(small, 512, 70.0, rows=32).settings
    assert (settings.head_groups, settings.activations) == (1, "device")
    assert settings.n_resident >= 25  # of equally fast plans the smallest
    assert settings.mlp_tokens >= 8192
    assert settings.head_resident


def test_states_go_to_disk_where_the_host_is_small(shape: DecoderShape) -> None:
    # Streamed layers, embedding and output matrix take 5.5 GiB; the states 8 more.
    plan = best(shape, 32_768, 3.0, host=9 * GIB)
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
def test_what_does_not_fit_is_refused_with_what_would(
    shape: DecoderShape, row_tokens: int, gib: float, host_gib: int, layers: LayerChoice,
    message: str,
) -> None:  # fmt: skip
    with pytest.raises(MemoryPlanError, match=message):
        best(shape, row_tokens, gib, host_gib * GIB, layers=layers)


def test_the_row_length_that_it_names_does_fit(shape: DecoderShape) -> None:
    assert best(shape, 32_768, 3.0, 64 * GIB).reserved_bytes <= 3 * GIB


def test_in_one_memory_nothing_waits_elsewhere(shape: DecoderShape) -> None:
    size = replace(size_of(shape, 4096), dtype=torch.float32)
    plan = plan_training(size, PLENTY, PLENTY, RATES, one_memory=True)
    assert plan.settings.n_resident == 32
    assert plan.settings.activations == "device"
    assert plan.settings.head_resident
    tight = plan_training(size, 24 * GIB, PLENTY, RATES, one_memory=True)
    assert tight.reserved_bytes + tight.host_bytes <= 24 * GIB
    assert host_bytes(size, tight.settings, 4096) == 4 * 128_256 * 4096
