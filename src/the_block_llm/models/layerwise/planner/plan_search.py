"""Searches for the fastest training plan that fits a device and its host."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import torch

from the_block_llm.errors import MemoryPlanError
from the_block_llm.models.layerwise.engine import EngineSettings
from the_block_llm.models.layerwise.offload.activation_offload import Placement
from the_block_llm.models.layerwise.planner.cost_model import DeviceRates, seconds_per_step
from the_block_llm.models.layerwise.planner.memory_model import (
    TrainingWorkload,
    device_items,
    host_bytes,
)
from the_block_llm.models.resource_limits import LayerChoice

GIB: Final = 2**30
# Memory that the allocator reserves, relative to what is allocated.
_RESERVED_PER_ALLOCATED: Final = 1.06
_MLP_TILE_TOKENS: Final = (32_768, 16_384, 8192, 4096, 2048, 1024)
_PLACEMENT_TEXT: Final[dict[Placement, str]] = {
    "device": "states in device memory",
    "host": "states in host memory",
    "disk": "states on disk",
}


@dataclass(frozen=True)
class MemoryPlan:
    """A way to train, its memory, and its expected time."""

    settings: EngineSettings
    micro_batch_rows: int
    adapter_dtype: torch.dtype
    device_items: dict[str, int]
    """Bytes on the device at the peak, by purpose."""
    host_bytes: int
    seconds_per_step: float

    @property
    def device_bytes(self) -> int:
        """Predicted peak of allocated device memory."""
        return sum(self.device_items.values())

    @property
    def reserved_bytes(self) -> int:
        """Device memory that must be free, with the allocator's overhead."""
        return int(self.device_bytes * _RESERVED_PER_ALLOCATED)

    def describe(self) -> str:
        """Return the choices in one line."""
        settings = self.settings
        layers = (
            "all layers resident"
            if settings.n_resident_layers == settings.n_layers
            else "all layers streamed"
            if settings.n_resident_layers == 0
            else f"{settings.n_resident_layers} of {settings.n_layers} layers resident"
        )
        parts = [
            "1 row at a time"
            if self.micro_batch_rows == 1
            else f"{self.micro_batch_rows} rows at a time",
            layers,
            "output matrix resident" if settings.is_head_resident else "output matrix in tiles",
            _PLACEMENT_TEXT[settings.activations],
            f"MLP in tiles of {settings.mlp_tile_tokens:,} tokens",
        ]
        if settings.head_groups > 1:
            parts.append(f"heads in {settings.head_groups} groups")
        if settings.keep_dequantized:
            parts.append("weights dequantized once per backward pass")
        if self.adapter_dtype is torch.bfloat16:
            parts.append("adapter in bfloat16")
        return ", ".join(parts)


def plan_training(
    workload: TrainingWorkload,
    free_bytes: int,
    host_free_bytes: int,
    rates: DeviceRates,
    layers: LayerChoice = "auto",
    micro_batch_rows: int | None = None,
    adapter_dtype: torch.dtype | None = None,
    unified_memory: bool = False,
) -> MemoryPlan:
    """Return the fastest plan that fits.

    Args:
        workload: What is trained.
        free_bytes: Free device memory.
        host_free_bytes: Free host memory, for streamed weights and states.
        rates: Throughput of the device.
        layers: ``resident`` or ``streamed`` restricts the plans.
        micro_batch_rows: Rows per micro-batch; None lets the plan choose.
        adapter_dtype: None for float32, or bfloat16 if only that fits.
        unified_memory: The device computes in host memory, like a CPU: offloading gains nothing,
            and ``free_bytes`` is for both.

    Raises:
        MemoryPlanError: No plan fits; the message names the closest one and what would fit.
    """
    dtypes = [adapter_dtype] if adapter_dtype else [torch.float32, torch.bfloat16]
    rejected: list[MemoryPlan] = []
    in_memory: tuple[Placement, ...] = ("device",) if unified_memory else ("device", "host")
    if unified_memory and layers == "auto":
        layers = "resident"
    on_disk: tuple[Placement, ...] = ("disk",)
    for placements, dtype in product((in_memory, on_disk), dtypes):
        plans = [
            _plan(workload, settings, rows, dtype, rates)
            for rows, settings in _candidates(workload, layers, micro_batch_rows, placements)
        ]
        fitting = [
            plan
            for plan in plans
            if plan.reserved_bytes + plan.host_bytes * unified_memory <= free_bytes
            and plan.host_bytes <= host_free_bytes
        ]
        if fitting:
            # The smallest of the plans within 1 % of the fastest.
            fastest = min(plan.seconds_per_step for plan in fitting)
            return min(
                (plan for plan in fitting if plan.seconds_per_step <= 1.01 * fastest),
                key=lambda plan: plan.device_bytes,
            )
        rejected.extend(plans)
    raise MemoryPlanError(_no_fit_message(workload, rejected, free_bytes, host_free_bytes, layers))


def _candidates(
    workload: TrainingWorkload,
    layers: LayerChoice,
    micro_batch_rows: int | None,
    placements: Sequence[Placement],
) -> Iterator[tuple[int, EngineSettings]]:
    """Yield the rows per micro-batch and the settings of each candidate plan."""
    shape = workload.shape
    n_layers = shape.n_layers
    row_choices = [micro_batch_rows] if micro_batch_rows else _divisors(workload.effective_rows)
    resident_choices = {
        "resident": [n_layers],
        "streamed": [0],
        "auto": sorted({n_layers * eighths // 8 for eighths in range(9)}),
    }[layers]
    group_choices = [n for n in _divisors(shape.n_kv_heads) if shape.n_heads % n == 0]
    for rows, n_resident, head_resident, groups, tile_tokens, placement, prefetch, keep in product(
        row_choices, resident_choices, (True, False), group_choices, _MLP_TILE_TOKENS, placements,
        (True, False), (True, False),
    ):  # fmt: skip
        tokens = rows * workload.row_tokens
        if tile_tokens > max(1024, 2 * tokens) or (placement == "device" and not prefetch):
            continue
        yield (
            rows,
            EngineSettings(
                n_layers=n_layers,
                n_resident_layers=n_resident,
                is_head_resident=head_resident,
                activations=placement,
                mlp_tile_tokens=tile_tokens,
                head_groups=groups,
                loss_chunk_tokens=min(1024, max(128, tokens // 8)),
                prefetch_activations=prefetch,
                keep_dequantized=keep,
            ),
        )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _plan(
    workload: TrainingWorkload,
    settings: EngineSettings,
    rows: int,
    adapter_dtype: torch.dtype,
    rates: DeviceRates,
) -> MemoryPlan:
    tokens = rows * workload.row_tokens
    return MemoryPlan(
        settings=settings,
        micro_batch_rows=rows,
        adapter_dtype=adapter_dtype,
        device_items=device_items(workload, settings, tokens, adapter_dtype),
        host_bytes=host_bytes(workload, settings, tokens),
        seconds_per_step=seconds_per_step(workload, settings, rows, rates),
    )


def _no_fit_message(
    workload: TrainingWorkload,
    rejected: list[MemoryPlan],
    free_bytes: int,
    host_free_bytes: int,
    layers: LayerChoice,
) -> str:
    """Return the requirements of the closest plan, and what would make it fit."""
    fits_host = [plan for plan in rejected if plan.host_bytes <= host_free_bytes]
    closest = min(fits_host or rejected, key=lambda plan: plan.device_bytes)
    requirements = (
        f"Training with rows of {workload.row_tokens:,} tokens needs at least "
        f"{closest.reserved_bytes / GIB:.2f} GiB of GPU memory and "
        f"{closest.host_bytes / GIB:.1f} GiB of host memory; "
        f"{free_bytes / GIB:.2f} and {host_free_bytes / GIB:.1f} GiB are free."
    )
    sentences = [requirements]
    row_tokens = _longest_fitting_row(workload, free_bytes, host_free_bytes)
    if row_tokens:
        sentences.append(
            f"Rows of up to {row_tokens:,} tokens would fit: set sequence_build.context_tokens."
        )
    if layers == "resident":
        sentences.append("qlora_train.layers: auto would fit more.")
    sentences.append("A smaller adapter (lora.r of the profile) needs less as well.")
    return " ".join(sentences)


def _longest_fitting_row(workload: TrainingWorkload, free_bytes: int, host_free_bytes: int) -> int:
    """Halve the row length until a plan fits; return 0 if none of at least 64 tokens does."""
    rates = DeviceRates(1.0, 1.0, 1.0)
    row_tokens = workload.row_tokens
    while row_tokens >= 128:
        row_tokens //= 2
        shorter = replace(workload, row_tokens=row_tokens)
        for rows, settings in _candidates(shorter, "auto", 1, ("host",)):
            plan = _plan(shorter, settings, rows, torch.bfloat16, rates)
            if plan.reserved_bytes <= free_bytes and plan.host_bytes <= host_free_bytes:
                return row_tokens
    return 0
