"""Memory plan of the plain engine on a CPU: micro-batch size and memory by item."""

import ctypes
import gc
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import psutil
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
)
from transformers import PreTrainedConfig

from the_block_llm.errors import MemoryPlanError
from the_block_llm.memory import trim_heap
from the_block_llm.models.base.sources import load_config
from the_block_llm.models.plain.activation_tracer import PassMemory, trace_pass
from the_block_llm.models.profiles import ModelProfile

_log = logging.getLogger(__name__)
_GIB: Final = 2**30
# Library code that is paged in on first use, and thread stacks: 14 MiB measured.
_OVERHEAD_BYTES: Final = 16 * 2**20
# Headroom, since the sums are not exact.
_SAFETY_FACTOR: Final = 1.06
# glibc's M_MMAP_THRESHOLD grows dynamically to 32 MiB; blocks freed below it stay in the process,
# too fragmented for the next layer's tensors. The overhead, as a fraction of the saved activations
# and the workspace, as measured on SmolLM2 (docs/memory_and_speed.md).
_HEAP_FRAGMENTATION: Final = 0.6
_MMAP_THRESHOLD: Final = 128 * 1024  # glibc's initial value
_M_MMAP_THRESHOLD: Final = -3  # of malloc.h
_HAS_MALLOPT: Final = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")
_MIN_ROW_TOKENS: Final = 64
# Item names are keys of training_preflight.json.
_PROCESS_ITEM: Final = "process before training"
HEAP_ITEM: Final = "freed, retained by the heap"


@dataclass(frozen=True)
class PlainMemoryPlan:
    """Settings of plain training on a CPU, and the memory that they need."""

    micro_batch_rows: int
    device_items: dict[str, int]
    """Bytes at the peak of a training step by item, including the process before training."""
    loading_bytes: int
    """Peak of loading, in addition to the process before training."""
    lowers_mmap_threshold: bool
    """Whether freed memory is returned immediately; a step then takes 1.5 times as long."""
    host_bytes: int = 0
    """Always 0: host memory is counted in ``device_items``."""

    @property
    def device_bytes(self) -> int:
        """Predicted peak of the process, in bytes."""
        return sum(self.device_items.values())

    @property
    def process_bytes(self) -> int:
        """Bytes that the process held before training."""
        return self.device_items[_PROCESS_ITEM]

    @property
    def required_bytes(self) -> int:
        """Bytes that must be free, in addition to the memory that the process already holds."""
        training = (self.device_bytes - self.process_bytes) * _SAFETY_FACTOR
        return max(int(training), self.loading_bytes)

    def describe(self) -> str:
        """Summarize the plan in one line."""
        rows = (
            "1 row at a time"
            if self.micro_batch_rows == 1
            else f"{self.micro_batch_rows} rows at a time"
        )
        heap = ", freed memory returned immediately" if self.lowers_mmap_threshold else ""
        return f"plain engine, {rows}, activations kept in memory{heap}"


def plan_plain(
    profile: ModelProfile,
    row_tokens: int,
    effective_rows: int,
    max_micro_batch_rows: int,
    free_bytes: int,
    micro_batch_rows: int | None = None,
    n_processes: int = 1,
    n_added_tokens: int = 0,
) -> PlainMemoryPlan | None:
    """Choose the largest micro-batch that fits; lower the mmap threshold if nothing fits otherwise.

    Args:
        profile: The model to train.
        row_tokens: Tokens of the longest row.
        effective_rows: Rows per optimizer step in this process.
        max_micro_batch_rows: Upper limit of rows per forward pass.
        free_bytes: Memory that this process may allocate.
        micro_batch_rows: Requested rows per forward pass; no other value is tried.
        n_processes: Data-parallel processes.
        n_added_tokens: Added tokens whose embeddings are trained as well.

    Returns:
        None, with a warning in the log, if the model's control flow depends on tensor values.

    Raises:
        MemoryPlanError: Nothing fits; the message names a setting that would.
        AdapterTargetError: A LoRA target matches no layer.
        ModelUnavailableError: The model's configuration is not available.
    """
    config = load_config(profile)
    process_bytes = resident_bytes()

    @cache
    def traced(rows: int, tokens: int) -> PassMemory:
        return trace_pass(config, profile, rows, tokens)

    def plan(rows: int, tokens: int, low_threshold: bool = _HAS_MALLOPT) -> PlainMemoryPlan:
        return _plan(
            traced(rows, tokens), config, rows, process_bytes, n_processes, n_added_tokens,
            low_threshold,
        )  # fmt: skip

    largest = min(micro_batch_rows or max_micro_batch_rows, effective_rows)
    divisors = [n for n in range(largest, 0, -1) if effective_rows % n == 0]
    candidates = divisors[:1] if micro_batch_rows else divisors
    try:
        # A smaller micro-batch takes a sixth longer, a low mmap threshold 1.5 times as long.
        for low_threshold in (False, True) if _HAS_MALLOPT else (False,):
            for rows in candidates:
                candidate = plan(rows, row_tokens, low_threshold)
                if candidate.required_bytes <= free_bytes:
                    return candidate
        message = _shortfall_message(
            candidate, row_tokens, free_bytes, divisors[len(candidates) :],
            lambda rows, tokens: plan(rows, tokens).required_bytes <= free_bytes,
        )  # fmt: skip
    except (
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedFakeTensorException,
    ) as error:
        _log.warning(
            "No memory plan for %s: its control flow depends on tensor values (%s)",
            profile.name, type(error).__name__,
        )  # fmt: skip
        return None
    raise MemoryPlanError(message)


def _shortfall_message(
    smallest: PlainMemoryPlan,
    row_tokens: int,
    free_bytes: int,
    fewer_rows: Sequence[int],
    fits: Callable[[int, int], bool],
) -> str:
    """Format the shortfall of the smallest plan, and the nearest setting that fits.

    Args:
        smallest: Plan that needs the least memory of those tried.
        row_tokens: Tokens of the longest row.
        free_bytes: Memory that this process may allocate.
        fewer_rows: Smaller micro-batches, largest first.
        fits: Whether that many rows of that many tokens fit.
    """
    rows = smallest.micro_batch_rows
    batch = f"{rows} rows of {row_tokens:,} tokens at a time"
    needs = (
        f"Training {batch if rows > 1 else f'with rows of {row_tokens:,} tokens'} needs "
        f"{smallest.required_bytes / _GIB:.2f} GiB of memory; {free_bytes / _GIB:.2f} GiB are free."
    )
    engine = (
        "qlora_train.engine: layerwise saves one hidden state per layer and needs less memory, if "
        "it supports the architecture."
    )
    n_rows = next((n for n in fewer_rows if fits(n, row_tokens)), None)
    if n_rows is not None:
        return f"{needs} qlora_train.micro_batch_rows: {n_rows} would fit. {engine}"
    lengths = (row_tokens >> halved for halved in range(1, row_tokens.bit_length()))
    tokens = next((n for n in lengths if n >= _MIN_ROW_TOKENS and fits(1, n)), None)
    if tokens is not None:
        return (
            f"{needs} Rows of up to {tokens:,} tokens would fit, one at a time: set "
            f"sequence_build.context_tokens. {engine}"
        )
    return f"{needs} {engine}"


def _plan(
    memory: PassMemory,
    config: PreTrainedConfig,
    rows: int,
    process_bytes: int,
    n_processes: int,
    n_added_tokens: int,
    low_threshold: bool,
) -> PlainMemoryPlan:
    n_matrices = 2 if memory.head_bytes else 1
    trained = memory.trained_parameters + n_matrices * n_added_tokens * config.hidden_size
    frozen = {
        "4-bit layers": memory.quantized_bytes,
        "embedding": memory.embedding_bytes,
        "output matrix": memory.head_bytes,
        "norms and biases": memory.other_bytes,
    }
    pass_bytes = sum(memory.saved_activation_bytes.values()) + memory.workspace_bytes
    return PlainMemoryPlan(
        micro_batch_rows=rows,
        lowers_mmap_threshold=low_threshold,
        device_items={
            _PROCESS_ITEM: process_bytes,
            **frozen,
            "adapter": 4 * trained,
            # To restore the adapter if the first step runs out of memory.
            "adapter, initial copy": 4 * trained,
            # Data-parallel processes average gradients in separate buckets.
            "adapter gradient": 4 * trained * (2 if n_processes > 1 else 1),
            "optimizer": 8 * trained,
            **{
                f"saved activations, {name}": n for name, n in memory.saved_activation_bytes.items()
            },
            f"temporary buffers ({memory.peak_phase})": memory.workspace_bytes,
            HEAP_ITEM: 0 if low_threshold else int(_HEAP_FRAGMENTATION * pass_bytes),
            "miscellaneous": _OVERHEAD_BYTES,
        },
        # Several matrices at a time are read and converted to float32 before they are quantized.
        loading_bytes=sum(frozen.values()) + 4 * memory.base_parameters,
    )


def lower_mmap_threshold() -> None:
    """Make glibc return large blocks to the system as soon as they are freed (``mallopt(3)``).

    Training then takes a third less memory and 1.5 times as long, because every new block consists
    of fresh pages that the kernel must zero. The setting lasts for the rest of the process.
    """
    if _HAS_MALLOPT:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


def resident_bytes() -> int:
    """Return the resident set size of this process, in bytes, after trimming the heap."""
    gc.collect()
    trim_heap()
    return int(psutil.Process().memory_info().rss)
