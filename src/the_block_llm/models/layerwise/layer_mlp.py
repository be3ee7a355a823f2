"""The MLP of a decoder layer, forward and backward by hand, a tile of tokens at a time."""

import torch

from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.kernels import fused
from the_block_llm.models.layerwise.layer_context import LayerPass
from the_block_llm.models.layerwise.lora_linear import Projection


class MlpHalf:
    """The norm, the MLP and its residual."""

    def __init__(self, shape: DecoderShape, inner: Projection, outer: Projection) -> None:
        """Take the joint projection into the MLP, and that out of it."""
        self._shape = shape
        self._inner = inner
        self._outer = outer

    def forward(self, middle: torch.Tensor, part: slice, work: LayerPass) -> None:
        """Add the MLP's output for a tile to ``middle``."""
        normed, inner, active = self._recompute(middle[part], part.start, work)
        del normed, inner
        middle[part].addmm_(active, work.weight("outer").T)
        work.add_bias("outer", middle[part])

    def _recompute(
        self, middle: torch.Tensor, start: int, work: LayerPass
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normed input, inner projection and activation of a tile, with low-rank columns."""
        hidden, width = self._shape.hidden, self._shape.intermediate
        normed = middle.new_empty(middle.shape[0], hidden + self._inner.n_columns)
        work.norm("post_attention_layernorm", middle, normed[:, :hidden])
        self._inner.fill_columns(
            normed[:, :hidden], normed[:, hidden:], work.down("inner"), work.seed(2, start)
        )
        bias = work.bias("inner")
        weight = work.weight("inner")
        inner = normed @ weight.T if bias is None else torch.addmm(bias, normed, weight.T)
        active = middle.new_empty(middle.shape[0], width + self._outer.n_columns)
        activate = fused.swiglu if self._shape.mlp == "swiglu" else fused.gelu
        activate(inner, active[:, :width])
        self._outer.fill_columns(
            active[:, :width], active[:, width:], work.down("outer"), work.seed(3, start)
        )
        return normed, inner, active

    def backward(
        self,
        middle: torch.Tensor,
        slope: torch.Tensor,
        start: int,
        work: LayerPass,
        frugal: bool,
    ) -> None:
        """Add to ``slope`` what a tile's input gets through the MLP."""
        hidden, width = self._shape.hidden, self._shape.intermediate
        normed, inner, active = self._recompute(middle, start, work)
        if frugal:
            work.drop("inner")
        whole = slice(None)
        self._outer.low_rank_up_backward(
            slope, active[:, width:], {self._outer.names[0]: (whole, whole)}
        )
        active_slope = slope @ work.weight("outer")
        if frugal:
            work.drop("outer")
        self._outer.low_rank_down_backward(
            active[:, :width], active_slope[:, width:], active_slope[:, :width],
            work.down("outer"), work.seed(3, start),
        )  # fmt: skip
        del active
        if self._shape.mlp == "swiglu":
            fused.swiglu_backward(inner, active_slope[:, :width])
        else:
            fused.gelu_backward(inner, active_slope[:, :width])
        del active_slope
        places = {
            name: (slice(number * width, (number + 1) * width), whole)
            for number, name in enumerate(self._inner.names)
        }
        self._inner.low_rank_up_backward(inner, normed[:, hidden:], places)
        normed_slope = inner @ work.weight("inner")
        self._inner.low_rank_down_backward(
            normed[:, :hidden], normed_slope[:, hidden:], normed_slope[:, :hidden],
            work.down("inner"), work.seed(2, start),
        )  # fmt: skip
        work.add_norm_backward("post_attention_layernorm", middle, normed_slope[:, :hidden], slope)
