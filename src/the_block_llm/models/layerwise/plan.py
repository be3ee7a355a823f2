"""What a run will need, item by item, and the fastest way that fits.

The sums follow the buffers of ``layer.py`` and ``head.py`` one by one; benchmarks/gpu
compares them with what a GPU measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import torch

from the_block_llm.errors import MemoryPlanError
from the_block_llm.models.layerwise.activations import Placement
from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.engine import EngineSettings
from the_block_llm.models.layerwise.head import TILE_ROWS
from the_block_llm.models.layerwise.packing import LayerLayout
from the_block_llm.models.limits import LayerChoice

GIB: Final = 2**30
# What libraries and small tensors take beside the buffers that are counted one by one.
_SMALL_THINGS: Final = 24 * 2**20
# The allocator reserves more than is allocated; a plan must leave it this share and a bit.
_RESERVED: Final = 1.06
# A guess at an ordinary solid-state disk, good enough to put it last.
_DISK_BYTES: Final = 1e9
# Kernel launches of one layer, forward and backward, and what each costs the host.
_LAUNCHES: Final = 130
_LAUNCH_SECONDS: Final = 9e-6


@dataclass(frozen=True)
class DeviceRates:
    """How fast a device is, measured on it (:func:`measure_rates`)."""

    matmul_flops: float
    """Of large 16-bit matrix products, a second."""
    memory_bytes: float
    """Moved within the device, a second."""
    host_bytes: float
    """Copied from pinned host memory, a second."""


@dataclass(frozen=True)
class TrainingSize:
    """What is to be trained."""

    shape: DecoderShape
    rank: int
    targets: frozenset[str]
    """Last components of the names of the Linear layers with LoRA."""
    row_tokens: int
    effective_rows: int

    @property
    def trained_parameters(self) -> int:
        """Numbers in the adapter."""
        return self.shape.n_layers * sum(
            self.rank * (linear.in_features + linear.out_features)
            for linear in self.shape.linears()
            if self._targeted(linear.name)
        )

    def columns(self, *names: str) -> int:
        """Low-rank columns behind the input of these Linear layers."""
        ranks = self.rank * sum(self._targeted(name) for name in names)
        return -(-ranks // 8) * 8

    def _targeted(self, name: str) -> bool:
        return name.rpartition(".")[2] in self.targets


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
            f"{self.micro_batch_rows} rows at a time",
            layers,
            "output matrix resident" if settings.head_resident else "output matrix in tiles",
            f"states in {settings.activations} memory",
            f"{settings.mlp_tokens:,} tokens a tile of the MLP",
        ]
        if settings.head_groups > 1:
            parts.append(f"heads in {settings.head_groups} groups")
        if self.adapter_dtype is torch.bfloat16:
            parts.append("adapter in bfloat16")
        return ", ".join(parts)


def measure_rates(device: torch.device) -> DeviceRates:
    """Time a product, a copy on the device and one from the host; a tenth of a second."""
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
    )


def plan_training(
    size: TrainingSize,
    free_bytes: int,
    host_free_bytes: int,
    rates: DeviceRates,
    layers: LayerChoice = "auto",
    micro_batch_rows: int | None = None,
    adapter_dtype: torch.dtype | None = None,
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

    Raises:
        MemoryPlanError: None fits; with the nearest that would.
    """
    dtypes = [adapter_dtype] if adapter_dtype else [torch.float32, torch.bfloat16]
    everything: list[MemoryPlan] = []
    in_memory: tuple[Placement, ...] = ("device", "host")
    on_disk: tuple[Placement, ...] = ("disk",)
    for placements, dtype in product((in_memory, on_disk), dtypes):
        plans = [
            _plan(size, settings, rows, dtype, rates)
            for rows, settings in _candidates(size, layers, micro_batch_rows, placements)
        ]
        fitting = [
            plan
            for plan in plans
            if plan.reserved_bytes <= free_bytes and plan.host_bytes <= host_free_bytes
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
    for together, n_resident, head, parts, mlp, states, ahead in product(
        rows, resident, (True, False), groups, (8192, 4096, 2048, 1024), placements, (True, False)
    ):
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
        host_bytes=_host_bytes(size, settings, rows * size.row_tokens),
        seconds_per_step=_seconds(size, settings, rows, rates),
    )


def device_items(
    size: TrainingSize, settings: EngineSettings, tokens: int, adapter_dtype: torch.dtype
) -> dict[str, int]:
    """Bytes on the device at the worst moment of a step, by what they are for."""
    shape = size.shape
    layer_bytes = LayerLayout(shape, torch.bfloat16).n_bytes
    streamed = settings.n_resident < shape.n_layers
    trained = size.trained_parameters
    fixed = {
        "4-bit layers": layer_bytes * (settings.n_resident + 2 * streamed),
        "output matrix": 2 * shape.vocabulary * shape.hidden * settings.head_resident,
        "adapter": trained * adapter_dtype.itemsize,
        "its gradient": trained * adapter_dtype.itemsize,
        # Two 8-bit moments, with a float32 scale for each block of 256.
        "optimizer": int(trained * 2 * (1 + 4 / 256)),
    }
    state = 2 * tokens * shape.hidden
    waiting = state * shape.n_layers if settings.activations == "device" else 0
    phases = {
        "attention": _attention_phase(size, settings, tokens),
        "MLP": _mlp_phase(size, settings, tokens),
        "loss": _loss_phase(size, settings, tokens),
    }
    worst = max(phases, key=lambda name: phases[name])
    return {
        **fixed,
        "states of all layers": waiting,
        f"work ({worst})": phases[worst],
        "positions, small things": _SMALL_THINGS + tokens * (shape.head_dim * 4 + 48),
    }


def _weights(size: TrainingSize) -> dict[str, int]:
    """Bytes of the unpacked joint weights."""
    shape = size.shape
    queries, keys = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    inner = ("gate_proj", "up_proj") if shape.mlp == "swiglu" else ("c_fc",)
    outer = "down_proj" if shape.mlp == "swiglu" else "c_proj"
    return {
        "qkv": 2 * (queries + 2 * keys)
        * (shape.hidden + size.columns("q_proj", "k_proj", "v_proj")),
        "out": 2 * shape.hidden * (queries + size.columns("o_proj")),
        "inner": 2 * len(inner) * shape.intermediate * (shape.hidden + size.columns(*inner)),
        "outer": 2 * shape.hidden * (shape.intermediate + size.columns(outer)),
    }  # fmt: skip


def _held(size: TrainingSize, settings: EngineSettings, tokens: int) -> int:
    """Going back: gradient, normed input, attention's output, the state between, and more."""
    shape = size.shape
    state = 2 * tokens * shape.hidden
    queries = 2 * tokens * shape.n_heads * shape.head_dim
    normed = state + 2 * tokens * size.columns("q_proj", "k_proj", "v_proj")
    ahead = state if settings.prefetch_states and settings.activations != "device" else 0
    held = state + normed + queries + ahead
    if settings.head_groups == 1:
        held += state + _projected(size, tokens)
    return held


def _projected(size: TrainingSize, tokens: int) -> int:
    shape = size.shape
    return 2 * tokens * (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim


def _attention_phase(size: TrainingSize, settings: EngineSettings, tokens: int) -> int:
    shape, groups = size.shape, settings.head_groups
    queries = 2 * tokens * shape.n_heads * shape.head_dim
    weights = _weights(size)
    gathered = 2 * tokens * (shape.hidden + size.columns("q_proj", "k_proj", "v_proj"))
    # The kernel's own: a float32 gradient of the queries, keys and values for every head.
    kernel = queries + _projected(size, tokens) + 2 * queries + 2 * queries
    if groups == 1:
        work = max(kernel, gathered + 2 * _projected(size, tokens))
    else:
        work = gathered + (kernel + _projected(size, tokens)) // groups
    return _held(size, settings, tokens) + work + weights["qkv"] + weights["out"]


def _mlp_phase(size: TrainingSize, settings: EngineSettings, tokens: int) -> int:
    shape = size.shape
    tile = min(settings.mlp_tokens, tokens)
    weights = _weights(size)
    inner = 2 if shape.mlp == "swiglu" else 1
    # Normed input and its gradient, inner projection, activation and its gradient.
    per_token = 2 * (2 * shape.hidden + (inner + 2) * shape.intermediate)
    unpacked = (
        max(weights["inner"], weights["outer"])
        if tile == tokens
        else weights["inner"] + weights["outer"]
    )
    state = 2 * tokens * shape.hidden
    return _held(size, settings, tokens) + state + tile * per_token + unpacked


def _loss_phase(size: TrainingSize, settings: EngineSettings, tokens: int) -> int:
    shape = size.shape
    state = 2 * tokens * shape.hidden
    chunk = min(settings.loss_positions, tokens)
    if settings.head_resident:
        return 2 * state + chunk * 2 * (shape.vocabulary + 5 * shape.hidden)
    tile_rows = min(TILE_ROWS, shape.vocabulary)
    slots = 2 * 2 * tile_rows * shape.hidden
    return 4 * state + slots + chunk * tile_rows * 10


def _host_bytes(size: TrainingSize, settings: EngineSettings, tokens: int) -> int:
    """Pinned host memory: streamed layers, embedding, output matrix, states."""
    shape = size.shape
    matrix = 2 * shape.vocabulary * shape.hidden
    layers = LayerLayout(shape, torch.bfloat16).n_bytes * (shape.n_layers - settings.n_resident)
    states = 2 * tokens * shape.hidden * shape.n_layers
    return (
        layers
        + matrix
        + (matrix if not settings.head_resident and not shape.tied else 0)
        + (states if settings.activations == "host" else 0)
    )


def _seconds(size: TrainingSize, settings: EngineSettings, rows: int, rates: DeviceRates) -> float:
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
    unpacking = 3 * 2.5 * weights / rates.memory_bytes
    passes = 12 * 2 * tokens * shape.intermediate / rates.memory_bytes
    busy = (products + attention) / rates.matmul_flops + unpacking + passes
    layer = max(busy, _LAUNCHES * _LAUNCH_SECONDS)
    layer_bytes = LayerLayout(shape, torch.bfloat16).n_bytes
    streamed = 1 - settings.n_resident / shape.n_layers
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
