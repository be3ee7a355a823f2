"""Predicts the device and host memory of a training step, item by item.

The sums count the buffers of ``layer.py``, ``layer_attention.py``, ``layer_mlp.py`` and
``chunked_loss.py``; benchmarks/gpu compares them with measured peaks.
"""

from dataclasses import dataclass
from typing import Final

import torch

from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.engine import EngineSettings
from the_block_llm.models.layerwise.kernels.attention import flash_workspace_tokens
from the_block_llm.models.layerwise.lm_head import VOCAB_TILE_ROWS
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout

# Libraries and small tensors, beside the buffers counted below.
_MISCELLANEOUS_BYTES: Final = 24 * 2**20


@dataclass(frozen=True)
class TrainingWorkload:
    """The model, adapter and batch to be trained."""

    shape: DecoderShape
    rank: int
    targets: frozenset[str]
    """Last components of the names of the Linear layers with LoRA."""
    row_tokens: int
    effective_rows: int
    """Rows per optimizer step."""
    n_added_tokens: int = 0
    """Added tokens whose vectors are trained."""
    dtype: torch.dtype = torch.bfloat16
    """Of hidden states: float32 on a CPU."""

    @property
    def trained_parameters(self) -> int:
        """Number of trained parameters."""
        n_matrices = 1 if self.shape.tie_word_embeddings else 2
        added = self.n_added_tokens * self.shape.hidden_size * n_matrices
        return added + self.shape.n_layers * sum(
            self.rank * (linear.in_features + linear.out_features)
            for linear in self.shape.linears()
            if self._is_target(linear.name)
        )

    @property
    def dtype_factor(self) -> int:
        """Item size relative to the 16 bits that the sums of this module assume."""
        return self.dtype.itemsize // 2

    def padded_rank(self, *names: str) -> int:
        """Return the LoRA columns that augment the input of these Linear layers."""
        rank = self.rank * sum(self._is_target(name) for name in names)
        return -(-rank // 8) * 8

    def _is_target(self, name: str) -> bool:
        return name.rpartition(".")[2] in self.targets


def device_items(
    workload: TrainingWorkload, settings: EngineSettings, tokens: int, adapter_dtype: torch.dtype
) -> dict[str, int]:
    """Return the bytes on the device at the peak of a step, by purpose.

    Args:
        workload: What is trained.
        settings: How.
        tokens: Tokens of a micro-batch.
        adapter_dtype: Of the adapter's parameters and gradients.
    """
    shape, factor = workload.shape, workload.dtype_factor
    layer_bytes = LayerLayout(shape, workload.dtype).n_bytes
    is_streamed = settings.n_resident_layers < shape.n_layers
    n_trained = workload.trained_parameters
    head_bytes = 2 * factor * shape.vocab_size * shape.hidden_size
    fixed = {
        "4-bit layers": layer_bytes * (settings.n_resident_layers + 2 * is_streamed),
        "output matrix": head_bytes * settings.is_head_resident,
        "adapter": n_trained * adapter_dtype.itemsize,
        "adapter gradient": n_trained * adapter_dtype.itemsize,
        # Two 8-bit moments, with a float32 scale per block of 256; float32 moments on a CPU.
        "optimizer": int(n_trained * (2 * (1 + 4 / 256) if factor == 1 else 8)),
    }
    state_bytes = 2 * factor * tokens * shape.hidden_size
    phases = {
        "attention": _attention_bytes(workload, settings, tokens),
        "MLP": _mlp_bytes(workload, settings, tokens),
        "loss": _loss_bytes(workload, settings, tokens),
    }
    peak_phase = max(phases, key=lambda name: phases[name])
    return {
        **fixed,
        "layer inputs": (state_bytes * shape.n_layers if settings.activations == "device" else 0),
        f"temporary buffers ({peak_phase})": factor * phases[peak_phase],
        "positions, miscellaneous": _MISCELLANEOUS_BYTES + tokens * (shape.head_dim * 4 + 48),
    }


def _weight_bytes(workload: TrainingWorkload) -> dict[str, int]:
    """Return the bytes of the dequantized, augmented weights of the fused Linear layers."""
    shape = workload.shape
    mlp_in = ("gate_proj", "up_proj") if shape.mlp == "swiglu" else ("c_fc",)
    mlp_out = "down_proj" if shape.mlp == "swiglu" else "c_proj"
    qkv_rank = workload.padded_rank("q_proj", "k_proj", "v_proj")
    mlp_in_rank = workload.padded_rank(*mlp_in)
    return {
        "qkv": 2 * (shape.query_size + 2 * shape.kv_size) * (shape.hidden_size + qkv_rank),
        "attn_out": 2 * shape.hidden_size * (shape.query_size + workload.padded_rank("o_proj")),
        "mlp_in": 2 * len(mlp_in) * shape.intermediate_size * (shape.hidden_size + mlp_in_rank),
        "mlp_out": 2
        * shape.hidden_size
        * (shape.intermediate_size + workload.padded_rank(mlp_out)),
    }


def _retained_bytes(workload: TrainingWorkload, settings: EngineSettings, tokens: int) -> int:
    """Return the bytes that a layer's backward pass holds throughout.

    Gradient, normed input and attention's output; the prefetched state if there is one; and with
    a single group of heads also the state after attention and QKV.
    """
    shape = workload.shape
    state_bytes = 2 * tokens * shape.hidden_size
    attention_bytes = 2 * tokens * shape.query_size
    normed_bytes = state_bytes + 2 * tokens * workload.padded_rank("q_proj", "k_proj", "v_proj")
    is_prefetched = settings.prefetch_activations and settings.activations != "device"
    prefetched_bytes = state_bytes if is_prefetched else 0
    retained = state_bytes + normed_bytes + attention_bytes + prefetched_bytes
    if settings.head_groups == 1:
        retained += state_bytes + _qkv_bytes(workload, tokens)
    return retained


def _qkv_bytes(workload: TrainingWorkload, tokens: int) -> int:
    return 2 * tokens * (workload.shape.query_size + 2 * workload.shape.kv_size)


def _attention_bytes(workload: TrainingWorkload, settings: EngineSettings, tokens: int) -> int:
    shape, n_groups = workload.shape, settings.head_groups
    query_bytes = 2 * tokens * shape.query_size
    qkv_bytes = _qkv_bytes(workload, tokens)
    weights = _weight_bytes(workload)
    qkv_rank = workload.padded_rank("q_proj", "k_proj", "v_proj")
    grad_normed_bytes = 2 * tokens * (shape.hidden_size + qkv_rank)
    # The kernel's float32 gradients of the queries, and of keys and values for every head.
    workspace_bytes = 4 * query_bytes * flash_workspace_tokens(tokens) // tokens
    kernel_bytes = query_bytes + qkv_bytes + workspace_bytes
    if n_groups == 1:
        work = max(kernel_bytes, grad_normed_bytes + 2 * qkv_bytes)
    else:
        work = grad_normed_bytes + (kernel_bytes + qkv_bytes) // n_groups
    retained = _retained_bytes(workload, settings, tokens)
    return retained + work + weights["qkv"] + weights["attn_out"]


def _mlp_bytes(workload: TrainingWorkload, settings: EngineSettings, tokens: int) -> int:
    shape = workload.shape
    tile_tokens = min(settings.mlp_tile_tokens, tokens)
    weights = _weight_bytes(workload)
    n_mlp_in = 2 if shape.mlp == "swiglu" else 1
    # Normed input and its gradient, preactivation, activation and its gradient.
    bytes_per_token = 2 * (2 * shape.hidden_size + (n_mlp_in + 2) * shape.intermediate_size)
    weight_bytes = (
        sum(weights.values())
        if settings.keep_dequantized
        else max(weights["mlp_in"], weights["mlp_out"])
        if tile_tokens == tokens
        else weights["mlp_in"] + weights["mlp_out"]
    )
    state_bytes = 2 * tokens * shape.hidden_size
    retained = _retained_bytes(workload, settings, tokens)
    return retained + state_bytes + tile_tokens * bytes_per_token + weight_bytes


def _loss_bytes(workload: TrainingWorkload, settings: EngineSettings, tokens: int) -> int:
    shape = workload.shape
    state_bytes = 2 * tokens * shape.hidden_size
    chunk_tokens = min(settings.loss_chunk_tokens, tokens)
    if settings.is_head_resident:
        n_logits = shape.vocab_size + workload.n_added_tokens
        return 2 * state_bytes + chunk_tokens * 2 * (n_logits + 5 * shape.hidden_size)
    tile_rows = min(VOCAB_TILE_ROWS, shape.vocab_size)
    tile_bytes = 2 * 2 * tile_rows * shape.hidden_size
    return 4 * state_bytes + tile_bytes + chunk_tokens * tile_rows * 10


def host_bytes(workload: TrainingWorkload, settings: EngineSettings, tokens: int) -> int:
    """Return the bytes of host memory: streamed layers, embedding, LM head and states."""
    shape, factor = workload.shape, workload.dtype_factor
    matrix_bytes = 2 * factor * shape.vocab_size * shape.hidden_size
    n_streamed = shape.n_layers - settings.n_resident_layers
    layer_bytes = LayerLayout(shape, workload.dtype).n_bytes * n_streamed
    state_bytes = 2 * factor * tokens * shape.hidden_size * shape.n_layers
    has_host_head = not settings.is_head_resident and not shape.tie_word_embeddings
    return (
        layer_bytes
        + matrix_bytes
        + (matrix_bytes if has_host_head else 0)
        + (state_bytes if settings.activations == "host" else 0)
    )
