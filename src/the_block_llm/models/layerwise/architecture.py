"""Decoder architectures that the layerwise engine supports: their layers, names and shapes.

An architecture with another norm or MLP also needs its operation in ``kernels/`` and in
``layer_mlp.py``, and its buffers in ``planner/memory_model.py``.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

SUPPORTED_MODEL_TYPES: Final = ("llama", "mistral", "starcoder2")


@dataclass(frozen=True)
class LinearShape:
    """One frozen Linear layer, named as in the checkpoint below ``model.layers.N.``."""

    name: str
    out_features: int
    in_features: int
    has_bias: bool

    @property
    def n_weights(self) -> int:
        """Number of weights, without the bias."""
        return self.out_features * self.in_features


@dataclass(frozen=True)
class DecoderShape:
    """A pre-norm decoder: norm, attention, norm and MLP in each layer, with two residuals."""

    model_type: str
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    norm: Literal["rms", "layer"]
    norm_eps: float
    mlp: Literal["swiglu", "gelu_tanh"]
    has_bias: bool
    tie_word_embeddings: bool
    sliding_window: int | None

    @property
    def query_size(self) -> int:
        """Features of all query heads."""
        return self.n_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Features of all key heads, or of all value heads."""
        return self.n_kv_heads * self.head_dim

    def linears(self) -> tuple[LinearShape, ...]:
        """Return the Linear layers of a decoder layer in the order of computation."""
        attention = [
            ("self_attn.q_proj", self.query_size, self.hidden_size),
            ("self_attn.k_proj", self.kv_size, self.hidden_size),
            ("self_attn.v_proj", self.kv_size, self.hidden_size),
            ("self_attn.o_proj", self.hidden_size, self.query_size),
        ]
        if self.mlp == "swiglu":
            mlp = [
                ("mlp.gate_proj", self.intermediate_size, self.hidden_size),
                ("mlp.up_proj", self.intermediate_size, self.hidden_size),
                ("mlp.down_proj", self.hidden_size, self.intermediate_size),
            ]
        else:
            mlp = [
                ("mlp.c_fc", self.intermediate_size, self.hidden_size),
                ("mlp.c_proj", self.hidden_size, self.intermediate_size),
            ]
        return tuple(LinearShape(*linear, has_bias=self.has_bias) for linear in [*attention, *mlp])

    def norms(self) -> tuple[str, ...]:
        """Return the names of the norm parameters of a decoder layer."""
        suffixes = ("weight",) if self.norm == "rms" else ("weight", "bias")
        return tuple(
            f"{norm}.{suffix}"
            for norm in ("input_layernorm", "post_attention_layernorm")
            for suffix in suffixes
        )


def decoder_shape(config: Any) -> DecoderShape | None:
    """Return the shape described by a transformers config.

    Returns:
        None if the engine does not support the architecture.
    """
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        return None
    n_heads = config.num_attention_heads
    common = {
        "model_type": config.model_type,
        "n_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "n_heads": n_heads,
        "n_kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // n_heads,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "sliding_window": getattr(config, "sliding_window", None),
    }
    if config.model_type == "starcoder2":
        if config.hidden_act != "gelu_pytorch_tanh":
            return None
        return DecoderShape(
            **common,
            norm="layer",
            norm_eps=config.norm_epsilon,
            mlp="gelu_tanh",
            has_bias=config.use_bias,
        )
    attention_bias = bool(getattr(config, "attention_bias", False))
    if config.hidden_act != "silu" or attention_bias != bool(getattr(config, "mlp_bias", False)):
        return None
    return DecoderShape(
        **common,
        norm="rms",
        norm_eps=config.rms_norm_eps,
        mlp="swiglu",
        has_bias=attention_bias,
    )
