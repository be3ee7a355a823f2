"""How long an optimizer step takes by one plan or another; enough to put plans in order."""

import time
from dataclasses import dataclass
from typing import Final

import torch

from the_block_llm.models.layerwise.engine import EngineSettings
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout
from the_block_llm.models.layerwise.planner.memory_model import TrainingSize

# A guess at an ordinary solid-state disk, good enough to put it last.
_DISK_BYTES: Final = 1e9
# Kernel launches of one layer, forward and backward. A small model waits for nothing else, so
# what multiplies them must not look free.
_LAUNCHES: Final = 180
_LAUNCHES_A_GROUP: Final = 40
_LAUNCHES_A_TILE: Final = 60
_LAUNCHES_TO_STREAM: Final = 8
_LAUNCHES_TO_STORE: Final = 6
# What the host does for a launch of ours, against one tiny operation in a loop of them.
_HOST_WORK: Final = 3.0
# Of the memory's rate, what unpacking 4-bit weights reaches.
_UNPACKING_RATE: Final = 0.6


@dataclass(frozen=True)
class DeviceRates:
    """How fast a device is, measured on it (:func:`measure_rates`)."""

    matmul_flops: float
    """Of large 16-bit matrix products, a second."""
    memory_bytes: float
    """Moved within the device, a second."""
    host_bytes: float
    """Copied from pinned host memory, a second."""
    launch_seconds: float = 2e-5
    """Of the host, for each kernel that it starts."""


# A CPU is not measured: its plans differ in what goes to disk alone.
_NO_RATES: Final = DeviceRates(matmul_flops=5e10, memory_bytes=1e10, host_bytes=1e10)


def measure_rates(device: torch.device) -> DeviceRates:
    """Time a product, copies within and to the device, and launches: a tenth of a second."""
    if device.type == "cpu":
        return _NO_RATES
    left = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    block = torch.empty(64 * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    host = torch.empty(64 * 2**20, dtype=torch.uint8, pin_memory=True)

    def seconds(work: torch.Tensor, other: torch.Tensor | None) -> float:
        best = float("inf")
        for _ in range(4):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            if other is None:
                torch.mm(work, work)
            else:
                other.copy_(work, non_blocking=True)
            end.record()
            end.synchronize()
            best = min(best, begin.elapsed_time(end) / 1000)
        return best

    return DeviceRates(
        matmul_flops=2 * 4096**3 / seconds(left, None),
        memory_bytes=2 * block.numel() / seconds(block, target),
        host_bytes=host.numel() / seconds(host, block),
        launch_seconds=_HOST_WORK * _launch_seconds(device),
    )


def _launch_seconds(device: torch.device) -> float:
    """What a tiny operation costs the host; few enough that they wait in the queue for nothing."""
    number = torch.zeros(1, device=device)
    best = float("inf")
    for _ in range(4):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(_LAUNCHES):
            number.add_(1)
        best = min(best, (time.perf_counter() - began) / _LAUNCHES)
    return best


def seconds_per_step(
    size: TrainingSize, settings: EngineSettings, rows: int, rates: DeviceRates
) -> float:
    """Expected time of an optimizer step: the longer of computing and copying, and the rest."""
    shape = size.shape
    tokens = rows * size.row_tokens
    weights = sum(linear.size for linear in shape.linears())
    queries = shape.n_heads * shape.head_dim
    outer = shape.hidden * shape.intermediate
    # Forward, gradient of the inputs, and again all but the last product of the MLP.
    products: float = 2 * tokens * (3 * weights - outer)
    # Half of all pairs, two products; forward twice, backward two and a half times; the
    # kernels reach about half of a product's rate.
    attention = 4.5 * 2 * tokens * size.row_tokens * queries / 0.5
    if settings.head_groups > 1:
        # Queries, keys and values are projected once more, in narrower products.
        products = 1.03 * (products + 2 * tokens * shape.hidden * 1.5 * queries)
    if settings.mlp_tokens < tokens:
        products *= 1 + 0.02 * 2048 / settings.mlp_tokens
    # Forward and back; the weights that are dropped in between once more.
    visits = 2.0 if settings.keep_unpacked else 3.0 if settings.mlp_tokens >= tokens else 2.2
    unpacking = visits * 2.5 * weights / (_UNPACKING_RATE * rates.memory_bytes)
    passes = 12 * 2 * tokens * shape.intermediate / rates.memory_bytes
    busy = (products + attention) / rates.matmul_flops + unpacking + passes
    layer_bytes = LayerLayout(shape, size.dtype).n_bytes
    streamed = 1 - settings.n_resident / shape.n_layers
    launches = (
        _LAUNCHES
        + _LAUNCHES_A_GROUP * (settings.head_groups - 1)
        + _LAUNCHES_A_TILE * (-(-tokens // settings.mlp_tokens) - 1)
        + _LAUNCHES_TO_STREAM * streamed
        + _LAUNCHES_TO_STORE * (settings.activations != "device")
    )
    layer = max(busy, launches * rates.launch_seconds)
    state = 2 * tokens * shape.hidden
    # Layers come forward and back; states go and come.
    copied: float = 2 * layer_bytes * streamed
    if settings.activations == "host":
        copied += 2 * state
    copying = copied / rates.host_bytes
    if settings.activations == "disk":
        copying += 2 * state / _DISK_BYTES
    waiting = 0.0 if settings.prefetch_states else state / rates.host_bytes
    together = max(layer, copying) + waiting + 0.1 * min(layer, copying)
    vocabulary = shape.vocabulary * shape.hidden
    head = 3 * 2 * tokens * vocabulary / rates.matmul_flops
    if not settings.head_resident:
        # Two visits of the matrix, and one product more.
        head = max(head * 4 / 3, 2 * 2 * vocabulary / rates.host_bytes)
        head += 6 * 4 * tokens * shape.vocabulary / rates.memory_bytes
    return (size.effective_rows / rows) * (shape.n_layers * together + head)
