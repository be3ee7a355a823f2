"""The fastest way to train that fits a device and its host."""

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
    TrainingSize,
    device_items,
    host_bytes,
)
from the_block_llm.models.resource_limits import LayerChoice

GIB: Final = 2**30
# The allocator reserves more than is allocated; a plan must leave it this share and a bit.
_RESERVED: Final = 1.06
# Tokens that go through the MLP together.
_TILES: Final = (32_768, 16_384, 8192, 4096, 2048, 1024)


@dataclass(frozen=True)
class MemoryPlan:
    """A way to train, what it needs, and how long a step is expected to take."""

    settings: EngineSettings
    micro_batch_rows: int
    adapter_dtype: torch.dtype
    device_items: dict[str, int]
    """Bytes on the device at the worst moment."""
    host_bytes: int
    seconds_per_step: float

    @property
    def device_bytes(self) -> int:
        """Predicted peak of allocated memory."""
        return sum(self.device_items.values())

    @property
    def reserved_bytes(self) -> int:
        """What must be free for it."""
        return int(self.device_bytes * _RESERVED)

    def describe(self) -> str:
        """The choice in a sentence."""
        settings = self.settings
        layers = (
            "all layers resident"
            if settings.n_resident == settings.n_layers
            else "all layers streamed"
            if settings.n_resident == 0
            else f"{settings.n_resident} of {settings.n_layers} layers resident"
        )
        parts = [
            "1 row at a time"
            if self.micro_batch_rows == 1
            else f"{self.micro_batch_rows} rows at a time",
            layers,
            "output matrix resident" if settings.head_resident else "output matrix in tiles",
            f"states in {settings.activations} memory",
            f"{settings.mlp_tokens:,} tokens a tile of the MLP",
        ]
        if settings.head_groups > 1:
            parts.append(f"heads in {settings.head_groups} groups")
        if settings.keep_unpacked:
            parts.append("weights unpacked once going back")
        if self.adapter_dtype is torch.bfloat16:
            parts.append("adapter in bfloat16")
        return ", ".join(parts)


def plan_training(
    size: TrainingSize,
    free_bytes: int,
    host_free_bytes: int,
    rates: DeviceRates,
    layers: LayerChoice = "auto",
    micro_batch_rows: int | None = None,
    adapter_dtype: torch.dtype | None = None,
    one_memory: bool = False,
) -> MemoryPlan:
    """The fastest plan that fits.

    Args:
        size: What is to be trained.
        free_bytes: Of device memory.
        host_free_bytes: Of host memory, for streamed weights and states.
        rates: Of the device.
        layers: ``resident`` and ``streamed`` leave only plans of that kind.
        micro_batch_rows: Rows at a time; none: the plan chooses.
        adapter_dtype: None: float32, or bfloat16 where only that fits.
        one_memory: The device computes in the host's memory, as a CPU does: nothing is gained by
            letting things wait there, and ``free_bytes`` is for all of it.

    Raises:
        MemoryPlanError: None fits; with the nearest that would.
    """
    dtypes = [adapter_dtype] if adapter_dtype else [torch.float32, torch.bfloat16]
    everything: list[MemoryPlan] = []
    in_memory: tuple[Placement, ...] = ("device",) if one_memory else ("device", "host")
    if one_memory and layers == "auto":
        layers = "resident"
    on_disk: tuple[Placement, ...] = ("disk",)
    for placements, dtype in product((in_memory, on_disk), dtypes):
        plans = [
            _plan(size, settings, rows, dtype, rates)
            for rows, settings in _candidates(size, layers, micro_batch_rows, placements)
        ]
        fitting = [
            plan
            for plan in plans
            if plan.reserved_bytes + plan.host_bytes * one_memory <= free_bytes
            and plan.host_bytes <= host_free_bytes
        ]
        if fitting:
            # Of equally fast ones the smallest; a hundredth is nothing.
            best = min(plan.seconds_per_step for plan in fitting)
            return min(
                (plan for plan in fitting if plan.seconds_per_step <= 1.01 * best),
                key=lambda plan: plan.device_bytes,
            )
        everything.extend(plans)
    raise MemoryPlanError(_advice(size, everything, free_bytes, host_free_bytes, layers))


def _candidates(
    size: TrainingSize,
    layers: LayerChoice,
    micro_batch_rows: int | None,
    placements: Sequence[Placement],
) -> Iterator[tuple[int, EngineSettings]]:
    shape = size.shape
    n_layers = shape.n_layers
    rows = [micro_batch_rows] if micro_batch_rows else _divisors(size.effective_rows)
    resident = {
        "resident": [n_layers],
        "streamed": [0],
        "auto": sorted({n_layers * part // 8 for part in range(9)}),
    }[layers]
    groups = [n for n in _divisors(shape.n_kv_heads) if shape.n_heads % n == 0]
    for together, n_resident, head, parts, mlp, states, ahead, kept in product(
        rows, resident, (True, False), groups, _TILES, placements,
        (True, False), (True, False),
    ):  # fmt: skip
        tokens = together * size.row_tokens
        if mlp > max(1024, 2 * tokens) or (states == "device" and not ahead):
            continue
        yield (
            together,
            EngineSettings(
                n_layers=n_layers,
                n_resident=n_resident,
                head_resident=head,
                activations=states,
                mlp_tokens=mlp,
                head_groups=parts,
                loss_positions=min(1024, max(128, tokens // 8)),
                prefetch_states=ahead,
                keep_unpacked=kept,
            ),
        )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _plan(
    size: TrainingSize,
    settings: EngineSettings,
    rows: int,
    adapter_dtype: torch.dtype,
    rates: DeviceRates,
) -> MemoryPlan:
    return MemoryPlan(
        settings=settings,
        micro_batch_rows=rows,
        adapter_dtype=adapter_dtype,
        device_items=device_items(size, settings, rows * size.row_tokens, adapter_dtype),
        host_bytes=host_bytes(size, settings, rows * size.row_tokens),
        seconds_per_step=seconds_per_step(size, settings, rows, rates),
    )


def _advice(
    size: TrainingSize,
    plans: list[MemoryPlan],
    free_bytes: int,
    host_free_bytes: int,
    layers: LayerChoice,
) -> str:
    """Which plan comes nearest, and what would make it fit."""
    on_host = [plan for plan in plans if plan.host_bytes <= host_free_bytes]
    nearest = min(on_host or plans, key=lambda plan: plan.device_bytes)
    needs = (
        f"Training with rows of {size.row_tokens:,} tokens needs at least "
        f"{nearest.reserved_bytes / GIB:.2f} GiB of GPU memory and "
        f"{nearest.host_bytes / GIB:.1f} GiB of host memory; "
        f"{free_bytes / GIB:.2f} and {host_free_bytes / GIB:.1f} GiB are free."
    )
    advice = [needs]
    shorter = _longest_row(size, free_bytes, host_free_bytes)
    if shorter:
        advice.append(
            f"Rows of up to {shorter:,} tokens would fit: set sequence_build.context_tokens."
        )
    if layers == "resident":
        advice.append("qlora_train.layers: auto would fit more.")
    advice.append("A smaller adapter (lora.r of the profile) needs less as well.")
    return " ".join(advice)


def _longest_row(size: TrainingSize, free_bytes: int, host_free_bytes: int) -> int:
    rates = DeviceRates(1.0, 1.0, 1.0)
    tokens = size.row_tokens
    while tokens >= 128:
        tokens //= 2
        shorter = replace(size, row_tokens=tokens)
        for rows, settings in _candidates(shorter, "auto", 1, ("host",)):
            plan = _plan(shorter, settings, rows, torch.bfloat16, rates)
            if plan.reserved_bytes <= free_bytes and plan.host_bytes <= host_free_bytes:
                return tokens
    return 0
