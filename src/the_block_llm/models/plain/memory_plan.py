"""What plain training needs of a CPU's memory, item by item, and how many rows go together."""

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
from the_block_llm.models.plain.activation_tracer import PassSizes, trace_pass
from the_block_llm.models.profiles import ModelProfile

_log = logging.getLogger(__name__)
_GIB: Final = 2**30
# Code of libraries that is read only once it is used, and stacks of threads: 14 MiB measured.
_SMALL_THINGS: Final = 16 * 2**20
# What must be free beyond the sums, since they are not exact.
_RESERVED: Final = 1.06
# glibc's own first value. Left alone it grows to 32 MiB, and what is let go below it stays with
# the process in pieces that the next layer's tensors do not fit into: this share of what a pass
# keeps and works with, as measured on SmolLM2 (docs/memory_and_speed.md).
_HELD_BACK: Final = 0.6
_MMAP_THRESHOLD: Final = 128 * 1024
_M_MMAP_THRESHOLD: Final = -3
_CAN_TIGHTEN: Final = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")
_SHORTEST_ROW: Final = 64  # tokens
_PROCESS: Final = "this process before"


@dataclass(frozen=True)
class PlainMemoryPlan:
    """How a model is trained the plain way on a CPU, and what that needs."""

    micro_batch_rows: int
    device_items: dict[str, int]
    """Bytes at the worst moment of training, those of the process before it included."""
    loading_bytes: int
    """That loading may take for a moment, on top of the process."""
    tight_heap: bool
    """Whether freed memory is given back at once, which takes half as long again."""
    host_bytes: int = 0
    """Nothing waits elsewhere: a CPU has one memory."""

    @property
    def device_bytes(self) -> int:
        """Predicted peak of the process."""
        return sum(self.device_items.values())

    @property
    def process_bytes(self) -> int:
        """What the process held before."""
        return self.device_items[_PROCESS]

    @property
    def added_bytes(self) -> int:
        """What must be free for it, beside the process as it is."""
        training = (self.device_bytes - self.process_bytes) * _RESERVED
        return max(int(training), self.loading_bytes)

    def describe(self) -> str:
        """The choice in a sentence."""
        rows = (
            "1 row at a time"
            if self.micro_batch_rows == 1
            else f"{self.micro_batch_rows} rows at a time"
        )
        heap = ", freed memory given back at once" if self.tight_heap else ""
        return f"plain engine, {rows}, whatever autograd keeps in memory{heap}"


def plan_plain(
    profile: ModelProfile,
    row_tokens: int,
    effective_rows: int,
    wanted_rows: int,
    free_bytes: int,
    fixed_rows: int | None = None,
    n_processes: int = 1,
    n_added_tokens: int = 0,
) -> PlainMemoryPlan | None:
    """As many rows at a time as are wanted and fit, with a tight heap where nothing fits else.

    Args:
        profile: What is trained.
        row_tokens: Of the longest row.
        effective_rows: Rows of an optimizer step in this process.
        wanted_rows: Most rows at a time.
        free_bytes: That this process may add to what it holds.
        fixed_rows: Rows at a time that were asked for; others are not tried.
        n_processes: That average their gradients.
        n_added_tokens: Tokens whose vectors are trained as well.

    Returns:
        None where the passes of a model cannot be followed without its numbers, which is said.

    Raises:
        MemoryPlanError: Nothing fits; the message says what would.
        AdapterTargetError: A LoRA target matches no layer.
        ModelUnavailableError: Not even the configuration can be had.
    """
    config = load_config(profile)
    process_bytes = resident_bytes()

    @cache
    def traced(rows: int, tokens: int) -> PassSizes:
        return trace_pass(config, profile, rows, tokens)

    def plan(rows: int, tokens: int, tight: bool = _CAN_TIGHTEN) -> PlainMemoryPlan:
        return _plan(
            traced(rows, tokens), config, rows, process_bytes, n_processes, n_added_tokens, tight
        )

    most = fixed_rows or wanted_rows
    candidates = [n for n in range(min(most, effective_rows), 0, -1) if effective_rows % n == 0]
    tried_rows = candidates[:1] if fixed_rows else candidates
    try:
        # Fewer rows cost a sixth, a tight heap half as much again.
        for tight in (False, True) if _CAN_TIGHTEN else (False,):
            for rows in tried_rows:
                tried = plan(rows, row_tokens, tight)
                if tried.added_bytes <= free_bytes:
                    return tried
        advice = _advice(
            tried, row_tokens, free_bytes, candidates[len(tried_rows) :],
            lambda rows, tokens: plan(rows, tokens).added_bytes <= free_bytes,
        )  # fmt: skip
    except (
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedFakeTensorException,
    ) as error:
        _log.warning(
            "No memory plan for %s: what it computes depends on its numbers (%s)",
            profile.name, type(error).__name__,
        )  # fmt: skip
        return None
    raise MemoryPlanError(advice)


def _advice(
    tried: PlainMemoryPlan,
    row_tokens: int,
    free_bytes: int,
    fewer_rows: Sequence[int],
    fits: Callable[[int, int], bool],
) -> str:
    """What the smallest plan lacks, and the nearest of fewer rows at a time or shorter rows."""
    rows = tried.micro_batch_rows
    several = f"{rows} rows of {row_tokens:,} tokens at a time"
    needs = (
        f"Training {several if rows > 1 else f'with rows of {row_tokens:,} tokens'} needs "
        f"{tried.added_bytes / _GIB:.2f} GiB of memory; {free_bytes / _GIB:.2f} GiB are free for "
        "it."
    )
    engine = (
        "qlora_train.engine: layerwise keeps one state a layer and needs less, where it knows "
        "the architecture."
    )
    n_rows = next((n for n in fewer_rows if fits(n, row_tokens)), None)
    if n_rows is not None:
        return f"{needs} qlora_train.micro_batch_rows: {n_rows} would fit. {engine}"
    lengths = (row_tokens >> halved for halved in range(1, row_tokens.bit_length()))
    tokens = next((n for n in lengths if n >= _SHORTEST_ROW and fits(1, n)), None)
    if tokens is not None:
        return (
            f"{needs} Rows of up to {tokens:,} tokens would fit, one at a time: set "
            f"sequence_build.context_tokens. {engine}"
        )
    return f"{needs} {engine}"


def _plan(
    sizes: PassSizes,
    config: PreTrainedConfig,
    rows: int,
    process_bytes: int,
    n_processes: int,
    n_added: int,
    tight: bool,
) -> PlainMemoryPlan:
    matrices = 2 if sizes.head_bytes else 1
    trained = sizes.trained_parameters + matrices * n_added * config.hidden_size
    frozen = {
        "4-bit layers": sizes.linear_bytes,
        "embedding": sizes.embedding_bytes,
        "output matrix": sizes.head_bytes,
        "norms and biases": sizes.other_bytes,
    }
    passing = sum(sizes.kept_bytes.values()) + sizes.work_bytes
    return PlainMemoryPlan(
        micro_batch_rows=rows,
        tight_heap=tight,
        device_items={
            _PROCESS: process_bytes,
            **frozen,
            "adapter": 4 * trained,
            # To go back to, should memory run out in the first step.
            "adapter, untrained": 4 * trained,
            # Several processes average theirs in buckets beside them.
            "its gradient": 4 * trained * (2 if n_processes > 1 else 1),
            "optimizer": 8 * trained,
            **{f"{part}, kept": n_bytes for part, n_bytes in sizes.kept_bytes.items()},
            f"work ({sizes.worst_moment})": sizes.work_bytes,
            "freed, held back by the heap": 0 if tight else int(_HELD_BACK * passing),
            "small things": _SMALL_THINGS,
        },
        # Matrices are read and widened several at a time before they are packed.
        loading_bytes=sum(frozen.values()) + 4 * sizes.base_parameters,
    )


def lower_mmap_threshold() -> None:
    """Make glibc give large blocks back to the system as soon as they are let go.

    A third less memory in training, for half as much time again: each block comes back as pages
    that must be filled with zeros. It stays so for the process.
    """
    if _CAN_TIGHTEN:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


def resident_bytes() -> int:
    """What this process holds now, without what it has let go already."""
    gc.collect()
    trim_heap()
    return int(psutil.Process().memory_info().rss)
