"""Estimates the time of an optimizer step, accurately enough to rank plans."""

import time
from dataclasses import dataclass
from typing import Final

import torch

from the_block_llm.models.layerwise.engine import EngineSettings
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout
from the_block_llm.models.layerwise.planner.memory_model import TrainingWorkload

# An estimate for a common solid-state disk, good enough to rank it last.
_DISK_BYTES_PER_S: Final = 1e9
# Kernel launches of one layer, forward and backward. Small models are launch-bound, so whatever
# multiplies the launches must have a cost.
_LAUNCHES_PER_LAYER: Final = 180
_LAUNCHES_PER_HEAD_GROUP: Final = 40
_LAUNCHES_PER_MLP_TILE: Final = 60
_LAUNCHES_PER_STREAMED_LAYER: Final = 8
_LAUNCHES_PER_OFFLOADED_STATE: Final = 6
# Host time of an engine launch, relative to a small operation in a tight loop.
_HOST_OVERHEAD: Final = 3.0
# Fraction of the memory bandwidth that NF4 dequantization reaches.
_DEQUANTIZATION_EFFICIENCY: Final = 0.6


@dataclass(frozen=True)
class DeviceRates:
    """Throughput of a device, measured by :func:`measure_rates`."""

    matmul_flops_per_s: float
    """Of large 16-bit matrix products."""
    memory_bytes_per_s: float
    """Copied within the device."""
    host_bytes_per_s: float
    """Copied from pinned host memory."""
    launch_s: float = 2e-5
    """Host time per kernel launch."""


# A CPU is not measured: only storage on disk distinguishes its plans.
_CPU_RATES: Final = DeviceRates(
    matmul_flops_per_s=5e10, memory_bytes_per_s=1e10, host_bytes_per_s=1e10
)


def measure_rates(device: torch.device) -> DeviceRates:
    """Measure matrix products, copies and kernel launches; takes a tenth of a second."""
    if device.type == "cpu":
        return _CPU_RATES
    matrix = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    device_block = torch.empty(64 * 2**20, dtype=torch.uint8, device=device)
    target_block = torch.empty_like(device_block)
    host_block = torch.empty(64 * 2**20, dtype=torch.uint8, pin_memory=True)

    def best_seconds(source: torch.Tensor, target: torch.Tensor | None) -> float:
        """Time a copy to ``target`` or, without one, a matrix product; the best of four."""
        best = float("inf")
        for _ in range(4):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            if target is None:
                torch.mm(source, source)
            else:
                target.copy_(source, non_blocking=True)
            end.record()
            end.synchronize()
            best = min(best, start.elapsed_time(end) / 1000)
        return best

    return DeviceRates(
        matmul_flops_per_s=2 * 4096**3 / best_seconds(matrix, None),
        memory_bytes_per_s=2 * device_block.numel() / best_seconds(device_block, target_block),
        host_bytes_per_s=host_block.numel() / best_seconds(host_block, device_block),
        launch_s=_HOST_OVERHEAD * _measure_launch(device),
    )


def _measure_launch(device: torch.device) -> float:
    """Return the host time of a small operation, over too few to fill the launch queue."""
    number = torch.zeros(1, device=device)
    best = float("inf")
    for _ in range(4):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(_LAUNCHES_PER_LAYER):
            number.add_(1)
        best = min(best, (time.perf_counter() - start) / _LAUNCHES_PER_LAYER)
    return best


def seconds_per_step(
    workload: TrainingWorkload,
    settings: EngineSettings,
    micro_batch_rows: int,
    rates: DeviceRates,
) -> float:
    """Return the expected time of an optimizer step.

    Computation and copies overlap: their time is that of the longer plus a tenth of the shorter.
    """
    shape = workload.shape
    tokens = micro_batch_rows * workload.row_tokens
    n_weights = sum(linear.n_weights for linear in shape.linears())
    n_mlp_out_weights = shape.hidden_size * shape.intermediate_size
    # Forward, input gradients, and recomputation of all but the MLP's last product.
    linear_flops: float = 2 * tokens * (3 * n_weights - n_mlp_out_weights)
    # Causal: half of all pairs, two products; forward twice, backward two and a half times. The
    # kernels reach about half of the rate of matrix products.
    attention_flops = 4.5 * 2 * tokens * workload.row_tokens * shape.query_size / 0.5
    if settings.head_groups > 1:
        # The QKV projection is computed once more, in narrower products.
        linear_flops = 1.03 * (
            linear_flops + 2 * tokens * shape.hidden_size * 1.5 * shape.query_size
        )
    if settings.mlp_tile_tokens < tokens:
        linear_flops *= 1 + 0.02 * 2048 / settings.mlp_tile_tokens
    # Forward and backward; weights that are freed in between once more.
    dequantizations = (
        2.0 if settings.keep_dequantized else 3.0 if settings.mlp_tile_tokens >= tokens else 2.2
    )
    dequantize_s = (
        dequantizations * 2.5 * n_weights / (_DEQUANTIZATION_EFFICIENCY * rates.memory_bytes_per_s)
    )
    elementwise_s = 12 * 2 * tokens * shape.intermediate_size / rates.memory_bytes_per_s
    device_s = (
        (linear_flops + attention_flops) / rates.matmul_flops_per_s + dequantize_s + elementwise_s
    )
    layer_bytes = LayerLayout(shape, workload.dtype).n_bytes
    streamed_fraction = 1 - settings.n_resident_layers / shape.n_layers
    launches = (
        _LAUNCHES_PER_LAYER
        + _LAUNCHES_PER_HEAD_GROUP * (settings.head_groups - 1)
        + _LAUNCHES_PER_MLP_TILE * (-(-tokens // settings.mlp_tile_tokens) - 1)
        + _LAUNCHES_PER_STREAMED_LAYER * streamed_fraction
        + _LAUNCHES_PER_OFFLOADED_STATE * (settings.activations != "device")
    )
    layer_s = max(device_s, launches * rates.launch_s)
    state_bytes = 2 * tokens * shape.hidden_size
    # Layers are copied in both passes; states are written in one and read in the other.
    copied_bytes: float = 2 * layer_bytes * streamed_fraction
    if settings.activations == "host":
        copied_bytes += 2 * state_bytes
    copy_s = copied_bytes / rates.host_bytes_per_s
    if settings.activations == "disk":
        copy_s += 2 * state_bytes / _DISK_BYTES_PER_S
    fetch_s = 0.0 if settings.prefetch_activations else state_bytes / rates.host_bytes_per_s
    overlapped_s = max(layer_s, copy_s) + fetch_s + 0.1 * min(layer_s, copy_s)
    head_weights = shape.vocab_size * shape.hidden_size
    head_s = 3 * 2 * tokens * head_weights / rates.matmul_flops_per_s
    if not settings.is_head_resident:
        # The matrix is copied twice, and one more product is computed.
        head_s = max(head_s * 4 / 3, 2 * 2 * head_weights / rates.host_bytes_per_s)
        head_s += 6 * 4 * tokens * shape.vocab_size / rates.memory_bytes_per_s
    n_micro_batches = workload.effective_rows / micro_batch_rows
    return n_micro_batches * (shape.n_layers * overlapped_s + head_s)
