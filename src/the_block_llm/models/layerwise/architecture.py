"""What the layerwise engine needs to know of a decoder: sizes, norms, activation, biases."""

from dataclasses import dataclass
from typing import Any, Final, Literal

SUPPORTED: Final = ("llama", "mistral", "starcoder2")


@dataclass(frozen=True)
class LinearShape:
    """One frozen Linear layer, as it is called in the checkpoint below ``model.layers.N.``."""

    name: str
    out_features: int
    in_features: int
    biased: bool

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.out_features * self.in_features


@dataclass(frozen=True)
class DecoderShape:
    """A decoder whose layers are norm, attention, norm, MLP, each with a residual."""

    model_type: str
    n_layers: int
    hidden: int
    intermediate: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocabulary: int
    norm: Literal["rms", "layer"]
    norm_eps: float
    mlp: Literal["swiglu", "gelu_tanh"]
    biased: bool
    tied: bool
    sliding_window: int | None

    def linears(self) -> tuple[LinearShape, ...]:
        """The Linear layers of one decoder layer, in the order in which they compute."""
        queries, keys = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        attention = [
            ("self_attn.q_proj", queries, self.hidden),
            ("self_attn.k_proj", keys, self.hidden),
            ("self_attn.v_proj", keys, self.hidden),
            ("self_attn.o_proj", self.hidden, queries),
        ]
        if self.mlp == "swiglu":
            mlp = [
                ("mlp.gate_proj", self.intermediate, self.hidden),
                ("mlp.up_proj", self.intermediate, self.hidden),
                ("mlp.down_proj", self.hidden, self.intermediate),
            ]
        else:
            mlp = [
                ("mlp.c_fc", self.intermediate, self.hidden),
                ("mlp.c_proj", self.hidden, self.intermediate),
            ]
        return tuple(LinearShape(*linear, biased=self.biased) for linear in [*attention, *mlp])

    def norms(self) -> tuple[str, ...]:
        """Names of the vectors of the two norms of one decoder layer."""
        suffixes = ("weight",) if self.norm == "rms" else ("weight", "bias")
        return tuple(
            f"{norm}.{suffix}"
            for norm in ("input_layernorm", "post_attention_layernorm")
            for suffix in suffixes
        )


def decoder_shape(config: Any) -> DecoderShape | None:
    """Read the shape off a transformers configuration.

    Returns:
        None where the engine does not know the architecture; plain training does.
    """
    if config.model_type not in SUPPORTED:
        return None
    n_heads = config.num_attention_heads
    common = {
        "model_type": config.model_type,
        "n_layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "n_heads": n_heads,
        "n_kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // n_heads,
        "vocabulary": config.vocab_size,
        "tied": bool(config.tie_word_embeddings),
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
            biased=config.use_bias,
        )
    attention_bias = bool(getattr(config, "attention_bias", False))
    if config.hidden_act != "silu" or attention_bias != bool(getattr(config, "mlp_bias", False)):
        return None
    return DecoderShape(
        **common,
        norm="rms",
        norm_eps=config.rms_norm_eps,
        mlp="swiglu",
        biased=attention_bias,
    )
