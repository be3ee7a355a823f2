"""State shared by the modules of a decoder layer during one pass."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.kernels.attention import Segments
from the_block_llm.models.layerwise.kernels.norm import Norm
from the_block_llm.models.layerwise.lora_linear import LoraLinear
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout


@dataclass(frozen=True)
class BatchMetadata:
    """What all layers need of a flat micro-batch besides its hidden states."""

    segments: Segments
    cos: torch.Tensor
    """``(n, head_dim / 2)``, float32, of each token's position."""
    sin: torch.Tensor
    dropout_seed: int | None
    """None if LoRA's dropout is off, as in validation."""


@dataclass(frozen=True)
class Tiling:
    """How a layer's computation is split; smaller parts need less memory and more time."""

    mlp_tile_tokens: int
    """Tokens per tile of the MLP."""
    head_groups: int
    """Groups of attention heads; divides the number of key-value heads."""
    keep_dequantized: bool
    """Whether the backward pass dequantizes each weight once instead of twice."""


class LayerContext:
    """A layer's frozen weights during one pass, each dequantized on first use."""

    def __init__(
        self,
        index: int,
        shape: DecoderShape,
        layout: LayerLayout,
        linears: Mapping[str, LoraLinear],
        tensors: dict[str, torch.Tensor],
        batch: BatchMetadata,
        dtype: torch.dtype,
    ) -> None:
        """Create the context of a pass.

        Args:
            index: Index of the layer.
            shape: Shape of the decoder.
            layout: Layout of the layer's buffer.
            linears: The fused Linear layers, by a short name.
            tensors: The layer's frozen weights.
            batch: The micro-batch.
            dtype: Of hidden states.
        """
        self.batch = batch
        self._index = index
        self._shape = shape
        self._linears = linears
        self._tensors = tensors
        self._dtype = dtype
        self._nf4_linears = layout.linears(tensors)
        self._weights: dict[str, torch.Tensor] = {}
        self._lora_a: dict[str, torch.Tensor] = {}

    def weight(self, name: str) -> torch.Tensor:
        """Return the augmented weight of a fused Linear layer, dequantizing it if needed."""
        if name not in self._weights:
            self._weights[name] = self._linears[name].augmented_weight(
                self._nf4_linears, self._dtype
            )
        return self._weights[name]

    def free_weights(self, *names: str) -> None:
        """Free dequantized weights; the next use dequantizes them again."""
        for name in names:
            self._weights.pop(name, None)

    def lora_a(self, name: str) -> torch.Tensor:
        """Return the stacked A of a fused Linear layer; it is small and is not freed."""
        if name not in self._lora_a:
            self._lora_a[name] = self._linears[name].stacked_lora_a(self._dtype)
        return self._lora_a[name]

    def bias(self, name: str) -> torch.Tensor | None:
        """Return the bias of a fused Linear layer, if there is one."""
        return self._linears[name].bias(self._nf4_linears)

    def add_bias_(self, name: str, x: torch.Tensor) -> None:
        """Add the bias of a fused Linear layer to ``x``, if there is one."""
        bias = self.bias(name)
        if bias is not None:
            x.add_(bias)

    def norm(self, name: str, x: torch.Tensor, out: torch.Tensor) -> None:
        """Write the norm of ``x``, ``(n, hidden_size)``, into ``out``."""
        Norm.from_tensors(name, self._tensors, self._shape.norm_eps).forward(x, out)

    def accumulate_norm_grad(
        self, name: str, x: torch.Tensor, grad_output: torch.Tensor, grad_input: torch.Tensor
    ) -> None:
        """Add the gradient of :meth:`norm`'s ``x`` to ``grad_input``."""
        norm = Norm.from_tensors(name, self._tensors, self._shape.norm_eps)
        norm.accumulate_grad(x, grad_output, grad_input)

    def dropout_seed(self, linear_index: int, offset: int = 0) -> int | None:
        """Return the seed for an input of a fused Linear layer; None without dropout.

        Args:
            linear_index: Index of the fused Linear layer.
            offset: First token of the tile, or index of the head group.
        """
        if self.batch.dropout_seed is None:
            return None
        return self.batch.dropout_seed + ((self._index * 4 + linear_index) << 24) + offset
