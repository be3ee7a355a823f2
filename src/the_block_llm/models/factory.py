"""Choose the training engine, plan its memory and load the trainable model."""

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
from the_block_llm.models.plain.chunked_loss import enable_chunked_loss
from the_block_llm.models.plain.fsdp import shard_frozen_layers
from the_block_llm.models.plain.memory_plan import PlainMemoryPlan, plan_plain
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.models.resource_limits import MemoryLimits

_log = logging.getLogger(__name__)
Collate = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
# Device memory outside PyTorch's allocator: the CUDA context, cuBLAS.
_NON_PYTORCH_BYTES: Final = GIB // 4
# Peak of loading, relative to the quantized weights: several 16-bit matrices exist at a time.
_LOADING_FACTOR: Final = 1.5
# Fraction of the free host memory to use; other programs need the rest.
_HOST_MEMORY_FRACTION: Final = 0.85


@dataclass(frozen=True)
class TrainableModel:
    """A model with an untrained adapter, and the collate function for its rows."""

    model: PeftModel
    collate: Collate
    is_layerwise: bool
    is_sharded: bool = False
    """Whether the frozen layers are sharded: every forward pass is then collective."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end an answer; set for layerwise models only."""

    def generate_greedy(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> list[Completion]:
        """Complete prompts by greedy decoding; for layerwise models only.

        Args:
            tokenizer: Decodes the answers.
            prompts: Token ids of each prompt.
            max_new_tokens: Limit for each answer.
        """
        prompt_ids = [list(prompt) for prompt in prompts]
        answers: list[list[int]] = [[] for _ in prompt_ids]
        unfinished = list(range(len(prompt_ids)))
        for _ in range(max_new_tokens):
            if not unfinished:
                break
            next_tokens = self.model.layerwise.next_tokens(
                [prompt_ids[i] + answers[i] for i in unfinished]
            )
            for index, token in zip(list(unfinished), next_tokens, strict=True):
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
    """Enable expandable segments in PyTorch's CUDA allocator; call before CUDA is initialized.

    Long rows need a few large blocks; with fixed segments fragmentation wastes a tenth.
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
    max_micro_batch_rows: int = 1,
) -> MemoryPlan | PlainMemoryPlan | None:
    """Find the fastest way to train within the limits.

    Args:
        profile: The model to train.
        row_tokens: Tokens of the longest row.
        effective_rows: Rows per optimizer step, over all processes.
        device: Training device.
        limits: Resource limits of the run.
        n_processes: Data-parallel processes on this host.
        n_added_tokens: Added tokens whose embeddings are trained as well.
        max_micro_batch_rows: Upper limit of rows per forward pass, for plain training on a CPU.

    Returns:
        A plain plan for training on a CPU, unless the layerwise engine is requested. None for
        plain training on a GPU (requested, or because the layerwise engine does not support the
        architecture) and for sharded layers: such runs are not planned.

    Raises:
        MemoryPlanError: Nothing fits; the message names a setting that would.
        ParameterError: The layerwise engine is requested and does not support the architecture.
    """
    if limits.layers == "sharded":
        return None
    is_cpu = device.type == "cpu"
    host_bytes = host_memory_budget(limits.host_gib) // n_processes
    is_plain = limits.engine == "plain" or (is_cpu and limits.engine == "auto")
    shape = None if is_plain else read_shape(profile)
    if shape is None:
        if limits.engine == "layerwise":
            raise ParameterError(
                f"qlora_train.engine: layerwise does not support the architecture of "
                f"{profile.name}. Use auto or plain."
            )
        if not is_cpu:
            return None
        return plan_plain(
            profile, row_tokens, effective_rows // n_processes, max_micro_batch_rows, host_bytes,
            limits.micro_batch_rows, n_processes, n_added_tokens,
        )  # fmt: skip
    targets = profile.lora.target_modules
    linear_names = {linear.name.rpartition(".")[2] for linear in shape.linears()}
    workload = TrainingWorkload(
        shape=shape,
        rank=profile.lora.r,
        targets=frozenset(linear_names if isinstance(targets, str) else targets),
        row_tokens=row_tokens,
        effective_rows=effective_rows // n_processes,
        n_added_tokens=n_added_tokens,
        dtype=compute_dtype(device),
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return plan_training(
        workload,
        host_bytes if is_cpu else device_memory_budget(device, limits.device_gib),
        host_bytes,
        measure_rates(device),
        limits.layers,
        limits.micro_batch_rows,
        # A CPU computes in float32 whatever the adapter's dtype.
        adapter_dtype=torch.float32 if is_cpu else None,
        unified_memory=is_cpu,
    )


def device_memory_budget(device: torch.device, cap_gib: float | None) -> int:
    """Return the bytes that PyTorch may allocate on ``device``."""
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device)
    usable = free - _NON_PYTORCH_BYTES
    return usable if cap_gib is None else min(usable, int(cap_gib * GIB))


def host_memory_budget(cap_gib: float | None) -> int:
    """Return the bytes of host memory for offloaded weights and states."""
    if cap_gib is not None:
        return int(cap_gib * GIB)
    return int(psutil.virtual_memory().available * _HOST_MEMORY_FRACTION)


def set_memory_fraction(device: torch.device, cap_gib: float | None) -> None:
    """Limit PyTorch's allocations on the GPU to ``cap_gib``; None: no limit."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        fraction = 1.0 if cap_gib is None else min(1.0, cap_gib * GIB / total)
        torch.cuda.set_per_process_memory_fraction(fraction, device)


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
    """Load the profile's base model in NF4 and attach an untrained adapter.

    Args:
        profile: The model to load.
        seed: Seed of the adapter's first factor.
        device: Training device.
        plan: Memory plan; a plain one or None selects the plain engine.
        tokenizer: The profile's tokenizer.
        added_tokens: Ids by token of the added tokens whose embeddings are trained as well.
        sharded: Whether the frozen layers are sharded over the processes of the run.

    Raises:
        AdapterTargetError: A LoRA target matches no layer.
        ModelUnavailableError: The base weights are not available.
    """
    if not isinstance(plan, MemoryPlan):
        if sharded:
            dtype = compute_dtype(device)
            base = load_base_model(profile, _loading_device(profile, device), dtype, dtype)
        else:
            base = load_base_model(profile, device)
        enable_chunked_loss(base)
        if device.type == "cuda" or sharded:
            _enable_gradient_checkpointing(base)
        embedding, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
        initial = initial_embeddings(
            added_tokens, tokenizer, embedding, None if head is embedding else head, profile.name
        )
        model = attach_adapter(base, profile, seed, initial)
        if sharded:
            shard_frozen_layers(model, device)
        collate: Collate = partial(collate_rows, pad_token_id=int(tokenizer.pad_token_id))
        return TrainableModel(model, collate, is_layerwise=False, is_sharded=sharded)
    model = load_layerwise_model(
        profile, plan.settings, device, seed, plan.adapter_dtype, quantized_cache_folder(profile),
        tokenizer, added_tokens,
    )  # fmt: skip
    return TrainableModel(
        model,
        partial(
            collate_flat_rows,
            pad_token_id=int(tokenizer.pad_token_id),
            added_ids=frozenset(added_tokens.values()),
        ),
        is_layerwise=True,
        stop_token_ids=frozenset(tokenizer.convert_tokens_to_ids(list(profile.stop_tokens))),
    )


def _loading_device(profile: ModelProfile, device: torch.device) -> torch.device:
    """Return the device on which the complete model is loaded before it is sharded.

    A GPU quantizes in seconds what takes a CPU minutes, and on the CPU every process would hold
    a complete model in host memory; but a GPU that holds one shard may not fit the complete model.
    """
    if device.type == "cpu":
        return device
    needed_bytes = quantized_bytes(profile, device) * _LOADING_FACTOR
    return device if needed_bytes < device_memory_budget(device, None) else torch.device("cpu")


def _enable_gradient_checkpointing(base: PreTrainedModel) -> None:
    # The method was renamed within version 5 of transformers; the Trainer's argument as well.
    enable = getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def quantized_cache_folder(profile: ModelProfile) -> Path:
    """Return the folder that caches the profile's 4-bit layers between runs."""
    return Path(profile.cache_folder).expanduser().resolve() / profile.name
