"""What one pass through a decoder layer works with."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.kernels.attention import Segments
from the_block_llm.models.layerwise.kernels.norms import Norm
from the_block_llm.models.layerwise.lora_linear import Projection
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout


@dataclass(frozen=True)
class Batch:
    """What all layers share of one micro-batch, its rows one behind the other."""

    segments: Segments
    cosine: torch.Tensor
    """``(n, head_dim / 2)``, float32, of each token's position."""
    sine: torch.Tensor
    dropout_seed: int | None
    """None where LoRA's dropout is off, as in validation."""


@dataclass(frozen=True)
class Tiling:
    """How finely a layer's work is cut; finer needs less memory and takes longer."""

    mlp_tokens: int
    """Tokens that go through the MLP together."""
    head_groups: int
    """Parts into which the heads are cut; divides the key-value heads."""
    keep_unpacked: bool
    """Going back, unpack each weight once and not twice."""


class LayerPass:
    """A layer's frozen weights during one pass, each unpacked when it is first needed."""

    def __init__(
        self,
        index: int,
        shape: DecoderShape,
        layout: LayerLayout,
        projections: Mapping[str, Projection],
        views: dict[str, torch.Tensor],
        batch: Batch,
        dtype: torch.dtype,
    ) -> None:
        """Begin a pass.

        Args:
            index: Of the layer.
            shape: Of the decoder.
            layout: Of the layer's buffer.
            projections: The joint Linear layers, by a short name.
            views: The layer's frozen weights.
            batch: What goes through it.
            dtype: Of hidden states.
        """
        self.batch = batch
        self._index = index
        self._shape = shape
        self._projections = projections
        self._views = views
        self._dtype = dtype
        self._linears = layout.linears(views)
        self._unpacked: dict[str, torch.Tensor] = {}
        self._downs: dict[str, torch.Tensor] = {}

    def weight(self, which: str) -> torch.Tensor:
        """The joint weight of a projection, low-rank columns included."""
        if which not in self._unpacked:
            self._unpacked[which] = self._projections[which].weight(self._linears, self._dtype)
        return self._unpacked[which]

    def drop(self, *which: str) -> None:
        """Let joint weights go; who asks again unpacks again."""
        for name in which:
            self._unpacked.pop(name, None)

    def down(self, which: str) -> torch.Tensor:
        """The joint A of a projection; small, so it stays."""
        if which not in self._downs:
            self._downs[which] = self._projections[which].down_matrix(self._dtype)
        return self._downs[which]

    def bias(self, which: str) -> torch.Tensor | None:
        """The joint bias of a projection."""
        return self._projections[which].bias(self._linears)

    def add_bias(self, which: str, into: torch.Tensor) -> None:
        """Add the joint bias, if there is one."""
        bias = self.bias(which)
        if bias is not None:
            into.add_(bias)

    def norm(self, name: str, x: torch.Tensor, out: torch.Tensor) -> None:
        """Write the normed ``x``, ``(n, hidden)``, into ``out``."""
        Norm.named(name, self._views, self._shape.norm_eps).write(x, out)

    def add_norm_backward(
        self, name: str, x: torch.Tensor, slope: torch.Tensor, into: torch.Tensor
    ) -> None:
        """Add to ``into`` the gradient of ``x``, given that of the normed ``x``."""
        Norm.named(name, self._views, self._shape.norm_eps).add_backward(x, slope, into)

    def seed(self, projection: int, start: int = 0) -> int | None:
        """One seed for each input of a projection and run of tokens; none without dropout."""
        if self.batch.dropout_seed is None:
            return None
        return self.batch.dropout_seed + ((self._index * 4 + projection) << 24) + start
