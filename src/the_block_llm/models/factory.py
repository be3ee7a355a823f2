"""The model that training gets: which engine computes it, within which memory."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import psutil
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from the_block_llm.errors import ParameterError
from the_block_llm.models.adapter.adapters import attach_adapter
from the_block_llm.models.adapter.added_embeddings import initial_embeddings
from the_block_llm.models.base.quantized_loading import (
    compute_dtype,
    load_base_model,
    quantized_bytes,
)
from the_block_llm.models.collate import collate_flat_rows, collate_rows
from the_block_llm.models.inference.generation import Completion
from the_block_llm.models.layerwise.model import load_layerwise_model, read_shape
from the_block_llm.models.layerwise.planner.cost_model import measure_rates
from the_block_llm.models.layerwise.planner.memory_model import TrainingWorkload
from the_block_llm.models.layerwise.planner.plan_search import GIB, MemoryPlan, plan_training
from the_block_llm.models.plain.fsdp import shard_frozen_layers
from the_block_llm.models.plain.loss import compute_loss_in_chunks
from the_block_llm.models.plain.memory_plan import PlainMemoryPlan, plan_plain
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.models.resource_limits import MemoryLimits

_log = logging.getLogger(__name__)
Collate = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
# Libraries take memory of their own beside PyTorch's: the CUDA context, cuBLAS.
_OUTSIDE_PYTORCH: Final = GIB // 4
# What loading holds beside the quantised weights: matrices in 16 bits, several at a time.
_WHILE_LOADING: Final = 1.5
# Other programs on the host need some of what is free now.
_HOST_SHARE: Final = 0.85


@dataclass(frozen=True)
class TrainableModel:
    """A model with a fresh adapter, and how rows become its input."""

    model: PeftModel
    collate: Collate
    layerwise: bool
    sharded: bool = False
    """Every pass through the model is one of all processes together."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end an answer of a layerwise model."""

    def greedy_answers(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> list[Completion]:
        """Answer prompts with the likeliest tokens, of a layerwise model."""
        rows = [list(prompt) for prompt in prompts]
        answers: list[list[int]] = [[] for _ in rows]
        unfinished = list(range(len(rows)))
        for _ in range(max_new_tokens):
            if not unfinished:
                break
            ahead = self.model.layerwise.next_tokens([rows[i] + answers[i] for i in unfinished])
            for index, token in zip(list(unfinished), ahead, strict=True):
                if token in self.stop_token_ids:
                    unfinished.remove(index)
                else:
                    answers[index].append(token)
        return [
            Completion(
                text=str(tokenizer.decode(answer, skip_special_tokens=True)),
                n_tokens=len(answer),
                finish="length" if index in unfinished else "stop",
            )
            for index, answer in enumerate(answers)
        ]


def enable_expandable_segments() -> None:
    """Ask PyTorch for segments that grow, before it first touches the GPU.

    Long rows need a few large pieces; in a heap of fixed segments a tenth would be lost.
    """
    if os.name == "posix":
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def plan_memory(
    profile: ModelProfile,
    row_tokens: int,
    effective_rows: int,
    device: torch.device,
    limits: MemoryLimits,
    n_processes: int = 1,
    n_added_tokens: int = 0,
    wanted_rows: int = 1,
) -> MemoryPlan | PlainMemoryPlan | None:
    """The fastest way to train within the limits.

    Args:
        profile: What is trained.
        row_tokens: Of the longest row.
        effective_rows: Rows of an optimizer step.
        device: Where.
        limits: What may be used.
        n_processes: Processes that share a step and this host.
        n_added_tokens: Tokens whose vectors are trained as well.
        wanted_rows: Most rows that go together in plain training on a CPU.

    Returns:
        A plain plan where a CPU trains the plain way: unless the layerwise engine is asked for.
        None where a GPU does, on request or since the architecture is not known to the
        layerwise engine, and where layers are sharded: such runs are not planned.

    Raises:
        MemoryPlanError: Nothing fits; the message says what would.
        ParameterError: The layerwise engine is asked for where it cannot serve.
    """
    if limits.layers == "sharded":
        return None
    on_cpu = device.type == "cpu"
    host = host_memory_budget(limits.host_gib) // n_processes
    plain = limits.engine == "plain" or (on_cpu and limits.engine == "auto")
    shape = None if plain else read_shape(profile)
    if shape is None:
        if limits.engine == "layerwise":
            raise ParameterError(
                f"qlora_train.engine: layerwise does not know the architecture of {profile.name}. "
                "Use auto or plain."
            )
        if not on_cpu:
            return None
        return plan_plain(
            profile, row_tokens, effective_rows // n_processes, wanted_rows, host,
            limits.micro_batch_rows, n_processes, n_added_tokens,
        )  # fmt: skip
    targets = profile.lora.target_modules
    names = {linear.name.rpartition(".")[2] for linear in shape.linears()}
    workload = TrainingWorkload(
        shape=shape,
        rank=profile.lora.r,
        targets=frozenset(names if isinstance(targets, str) else targets),
        row_tokens=row_tokens,
        effective_rows=effective_rows // n_processes,
        n_added_tokens=n_added_tokens,
        dtype=compute_dtype(device),
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return plan_training(
        workload,
        host if on_cpu else device_memory_budget(device, limits.device_gib),
        host,
        measure_rates(device),
        limits.layers,
        limits.micro_batch_rows,
        # A CPU computes in float32 whatever the adapter is.
        adapter_dtype=torch.float32 if on_cpu else None,
        unified_memory=on_cpu,
    )


def device_memory_budget(device: torch.device, cap_gib: float | None) -> int:
    """Bytes that PyTorch may take on ``device``."""
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device)
    usable = free - _OUTSIDE_PYTORCH
    return usable if cap_gib is None else min(usable, int(cap_gib * GIB))


def host_memory_budget(cap_gib: float | None) -> int:
    """Bytes of host memory for weights and states that wait there."""
    if cap_gib is not None:
        return int(cap_gib * GIB)
    return int(psutil.virtual_memory().available * _HOST_SHARE)


def set_memory_fraction(device: torch.device, cap_gib: float | None) -> None:
    """Make PyTorch refuse more than ``cap_gib`` of the GPU to this process."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        share = 1.0 if cap_gib is None else min(1.0, cap_gib * GIB / total)
        torch.cuda.set_per_process_memory_fraction(share, device)


def load_trainable(
    profile: ModelProfile,
    seed: int,
    device: torch.device,
    plan: MemoryPlan | PlainMemoryPlan | None,
    tokenizer: PreTrainedTokenizerBase,
    added_tokens: Mapping[str, int] = MappingProxyType({}),
    *,
    sharded: bool = False,
) -> TrainableModel:
    """Load the profile's base in 4 bits, with a fresh adapter.

    Args:
        profile: Which model.
        seed: Of the adapter's first factor.
        device: Where to.
        plan: How; a plain one, or none: the plain way.
        tokenizer: Of the profile.
        added_tokens: Ids by token of those whose vectors are trained as well.
        sharded: Whether each of several processes keeps a share of the frozen layers.

    Raises:
        AdapterTargetError: A LoRA target matches no layer.
        ModelUnavailableError: The base weights cannot be had.
    """
    if not isinstance(plan, MemoryPlan):
        if sharded:
            dtype = compute_dtype(device)
            base = load_base_model(profile, _loading_place(profile, device), dtype, dtype)
        else:
            base = load_base_model(profile, device)
        compute_loss_in_chunks(base)
        if device.type == "cuda" or sharded:
            _recompute_layers(base)
        embedding, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
        start = initial_embeddings(
            added_tokens, tokenizer, embedding, None if head is embedding else head, profile.name
        )
        model = attach_adapter(base, profile, seed, start)
        if sharded:
            shard_frozen_layers(model, device)
        collate: Collate = partial(collate_rows, pad_token_id=int(tokenizer.pad_token_id))
        return TrainableModel(model, collate, layerwise=False, sharded=sharded)
    model = load_layerwise_model(
        profile, plan.settings, device, seed, plan.adapter_dtype, quantized_copy_folder(profile),
        tokenizer, added_tokens,
    )  # fmt: skip
    return TrainableModel(
        model,
        partial(
            collate_flat_rows,
            pad_token_id=int(tokenizer.pad_token_id),
            added_ids=frozenset(added_tokens.values()),
        ),
        layerwise=True,
        stop_token_ids=frozenset(tokenizer.convert_tokens_to_ids(list(profile.stop_tokens))),
    )


def _loading_place(profile: ModelProfile, device: torch.device) -> torch.device:
    """Where a model is whole for as long as it takes to share it out.

    A GPU quantises in seconds what a CPU does in minutes, and host memory would hold a whole model
    for each process; but the whole need not fit where a share will lie.
    """
    if device.type == "cpu":
        return device
    needs, free = quantized_bytes(profile), device_memory_budget(device, None)
    return device if needs * _WHILE_LOADING < free else torch.device("cpu")


def _recompute_layers(base: PreTrainedModel) -> None:
    # The method was renamed within version 5 of transformers; the Trainer's argument as well.
    enable = getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def quantized_copy_folder(profile: ModelProfile) -> Path:
    """Where the 4-bit copy of a profile's layers is kept for the next start."""
    return Path(profile.cache_folder).expanduser().resolve() / profile.name
