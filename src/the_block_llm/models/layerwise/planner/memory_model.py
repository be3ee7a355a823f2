"""What a step needs of a device and of its host, item by item.

The sums follow the buffers of ``layer.py``, of its two halves and of ``head.py`` one by one;
benchmarks/gpu compares them with what a GPU measured.
"""

from dataclasses import dataclass
from typing import Final

import torch

from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.chunked_loss import TILE_ROWS
from the_block_llm.models.layerwise.engine import EngineSettings
from the_block_llm.models.layerwise.kernels.attention import room_of_kernel
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout

# What libraries and small tensors take beside the buffers that are counted one by one.
_SMALL_THINGS: Final = 24 * 2**20


@dataclass(frozen=True)
class TrainingSize:
    """What is to be trained."""

    shape: DecoderShape
    rank: int
    targets: frozenset[str]
    """Last components of the names of the Linear layers with LoRA."""
    row_tokens: int
    effective_rows: int
    n_added: int = 0
    """Added tokens whose vectors are trained."""
    dtype: torch.dtype = torch.bfloat16
    """Of hidden states: float32 on a CPU."""

    @property
    def trained_parameters(self) -> int:
        """Numbers in the adapter."""
        added = self.n_added * self.shape.hidden * (1 if self.shape.tied else 2)
        return added + self.shape.n_layers * sum(
            self.rank * (linear.in_features + linear.out_features)
            for linear in self.shape.linears()
            if self._targeted(linear.name)
        )

    @property
    def width(self) -> int:
        """How many times as wide numbers are as the 16 bits that the sums below count with."""
        return self.dtype.itemsize // 2

    def columns(self, *names: str) -> int:
        """Low-rank columns behind the input of these Linear layers."""
        ranks = self.rank * sum(self._targeted(name) for name in names)
        return -(-ranks // 8) * 8

    def _targeted(self, name: str) -> bool:
        return name.rpartition(".")[2] in self.targets


def device_items(
    size: TrainingSize, settings: EngineSettings, tokens: int, adapter_dtype: torch.dtype
) -> dict[str, int]:
    """Bytes on the device at the worst moment of a step, by what they are for."""
    shape = size.shape
    layer_bytes = LayerLayout(shape, size.dtype).n_bytes
    streamed = settings.n_resident < shape.n_layers
    trained = size.trained_parameters
    fixed = {
        "4-bit layers": layer_bytes * (settings.n_resident + 2 * streamed),
        "output matrix": 2 * size.width * shape.vocabulary * shape.hidden * settings.head_resident,
        "adapter": trained * adapter_dtype.itemsize,
        "its gradient": trained * adapter_dtype.itemsize,
        # Two 8-bit moments, with a float32 scale for each block of 256; on a CPU in float32.
        "optimizer": int(trained * (2 * (1 + 4 / 256) if size.width == 1 else 8)),
    }
    state = 2 * size.width * tokens * shape.hidden
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
        f"work ({worst})": size.width * phases[worst],
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
    own = 4 * queries * room_of_kernel(tokens) // tokens
    kernel = queries + _projected(size, tokens) + own
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
        sum(weights.values())
        if settings.keep_unpacked
        else max(weights["inner"], weights["outer"])
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
        return 2 * state + chunk * 2 * (shape.vocabulary + size.n_added + 5 * shape.hidden)
    tile_rows = min(TILE_ROWS, shape.vocabulary)
    slots = 2 * 2 * tile_rows * shape.hidden
    return 4 * state + slots + chunk * tile_rows * 10


def host_bytes(size: TrainingSize, settings: EngineSettings, tokens: int) -> int:
    """Pinned host memory: streamed layers, embedding, output matrix, states."""
    shape = size.shape
    matrix = 2 * size.width * shape.vocabulary * shape.hidden
    layers = LayerLayout(shape, size.dtype).n_bytes * (shape.n_layers - settings.n_resident)
    states = 2 * size.width * tokens * shape.hidden * shape.n_layers
    return (
        layers
        + matrix
        + (matrix if not settings.head_resident and not shape.tied else 0)
        + (states if settings.activations == "host" else 0)
    )
