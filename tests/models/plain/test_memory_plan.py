"""What plain training is said to need beside what it takes, and what follows from it."""

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
from the_block_llm.models.plain.loss import compute_loss_in_chunks
from the_block_llm.models.plain.memory_plan import lower_mmap_threshold, plan_plain, resident_bytes
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.qlora_train.runtime.memory_stats import (
    peak_memory_gib,
    reset_peak_memory,
)

CPU = torch.device("cpu")
PLENTY = 2**40


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return tiny_profile(save_tiny_llama(tmp_path_factory.mktemp("base")))


def saved_for_the_way_back(model: Any, inputs: dict[str, torch.Tensor]) -> int:
    """Bytes that autograd keeps, counted by its own hooks; weights are not among them."""
    own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = model.get_base_model().get_decoder()(
            input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False
        )
    n_bytes = sum(storage.nbytes() for storage in kept.values())
    del states
    return n_bytes


def test_what_is_kept_for_the_way_back_is_what_autograd_keeps(profile: ModelProfile) -> None:
    rows = [row(TEXT), row(TEXT)]
    for one in rows:
        one["segment_lengths"] = [30, len(TEXT) - 30]
    sizes = trace_pass(AutoConfig.from_pretrained(str(profile.folder)), profile, 2, len(TEXT))
    base = load_base_model(profile, CPU)
    model = attach_adapter(base, profile, seed=0).train()
    disable_inference_repacking(model)
    kept = saved_for_the_way_back(model, collate_rows(rows, pad_token_id=3))
    # Beside what autograd keeps only the ids' positions and the last states are alive.
    assert sum(sizes.kept_bytes.values()) == pytest.approx(kept, rel=0.05)
    assert sizes.kept_bytes[MLP] > 0
    assert sizes.kept_bytes[ATTENTION] > 0


def measured_and_foretold(folder: Path) -> tuple[float, float]:
    """Bytes of a forward and backward pass, for a process of its own, with nothing freed before."""
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
    plan = plan_plain(profile, 512, 4, 4, PLENTY)
    assert plan is not None
    base = load_base_model(profile, CPU)
    compute_loss_in_chunks(base)
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
    of_a_pass = sum(
        n_bytes
        for name, n_bytes in plan.device_items.items()
        if "kept" in name or "work" in name or "gradient" in name
    )
    return measured, of_a_pass


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is reset through /proc")
def test_the_peak_of_a_step_is_the_one_foretold(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        measured, foretold = pool.submit(measured_and_foretold, tmp_path).result()
    assert measured == pytest.approx(foretold, rel=0.1)
    assert foretold > 100 * 2**20


def test_fewer_rows_go_together_where_memory_is_short(profile: ModelProfile) -> None:
    needs = {}
    for rows in (1, 2, 4):
        plan = plan_plain(profile, 2048, 4, rows, PLENTY)
        assert plan is not None
        assert plan.micro_batch_rows == rows
        needs[rows] = plan.added_bytes
    assert needs[1] < needs[2] < needs[4]
    short = plan_plain(profile, 2048, 4, 4, (needs[2] + needs[4]) // 2)
    assert short is not None
    assert short.micro_batch_rows == 2
    three = plan_plain(profile, 2048, 6, 4, PLENTY)
    assert three is not None
    assert three.micro_batch_rows == 3, "a divisor of the effective batch"


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_the_heap_is_held_tight_only_where_nothing_fits_else(profile: ModelProfile) -> None:
    one = plan_plain(profile, 2048, 4, 1, PLENTY)
    assert one is not None
    assert not one.tight_heap
    short = plan_plain(profile, 2048, 4, 4, one.added_bytes - 2**20)
    assert short is not None
    assert (short.tight_heap, short.micro_batch_rows) == (True, 1)
    assert "given back" in short.describe()
    assert short.device_items["freed, held back by the heap"] == 0


def test_what_fits_not_is_refused_with_the_nearest_that_does(profile: ModelProfile) -> None:
    one = plan_plain(profile, 2048, 4, 1, PLENTY)
    half = plan_plain(profile, 1024, 4, 1, PLENTY)
    assert one is not None
    assert half is not None
    with pytest.raises(MemoryPlanError, match=r"4 rows of 2,048 .*micro_batch_rows: 1 would fit"):
        plan_plain(profile, 2048, 4, 4, one.added_bytes, fixed_rows=4)
    with pytest.raises(MemoryPlanError, match=r"needs 0.*Rows of up to 1,024 tokens would fit"):
        plan_plain(profile, 2048, 4, 4, half.added_bytes)
    with pytest.raises(MemoryPlanError, match="layerwise"):
        plan_plain(profile, 2048, 4, 4, 1000)


def test_another_architecture_and_all_linear_layers(profile: ModelProfile) -> None:
    config = Starcoder2Config(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    with pytest.raises(AdapterTargetError, match="down_proj"):
        trace_pass(config, profile, 1, 64)
    lora = profile.lora.model_copy(update={"target_modules": "all-linear"})
    sizes = trace_pass(config, profile.model_copy(update={"lora": lora}), 1, 64)
    # By hand: q 64→64, k and v 64→32, o 64→64, c_fc 64→128, c_proj 128→64, in two layers.
    assert sizes.trained_parameters == 2 * 4 * (128 + 96 + 96 + 128 + 192 + 192)
    assert sizes.kept_bytes[MLP] > 0
