"""One decoder layer, forward and backward by hand, in as few buffers as it takes.

u stands for the memory of one hidden state of all tokens. Going forward a layer holds its
input and output, the normed input and one group of heads. Going back it holds at most the
incoming gradient, the normed input and its gradient, the attention's output, and one group
of heads or one tile of the MLP: see :mod:`the_block_llm.models.layerwise.planner.plan_search`.
"""

from collections.abc import Callable, Iterator

import torch

from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.layer_attention import AttentionHalf
from the_block_llm.models.layerwise.layer_context import Batch, LayerPass, Tiling
from the_block_llm.models.layerwise.layer_mlp import MlpHalf
from the_block_llm.models.layerwise.lora_linear import (
    LowRank,
    Projection,
    begin_slopes,
    finish_slopes,
)
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout


class DecoderLayer:
    """The computation of one layer; its frozen weights come with each call."""

    def __init__(
        self,
        index: int,
        shape: DecoderShape,
        layout: LayerLayout,
        low_ranks: dict[str, LowRank],
        dropout: float,
    ) -> None:
        """Describe layer ``index``; ``low_ranks`` are its LoRA pairs by the layers' names."""
        self._index = index
        self._shape = shape
        self._layout = layout
        self._pairs = list(low_ranks.values())
        inner, outer = (
            (("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))
            if shape.mlp == "swiglu"
            else (("mlp.c_fc",), ("mlp.c_proj",))
        )
        joint = {
            "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "out": ("self_attn.o_proj",),
            "inner": inner,
            "outer": outer,
        }
        self._projections = {
            name: Projection(parts, low_ranks, dropout) for name, parts in joint.items()
        }
        self._attention = AttentionHalf(shape, self._projections["qkv"], self._projections["out"])
        self._mlp = MlpHalf(shape, self._projections["inner"], self._projections["outer"])

    def forward(
        self, x: torch.Tensor, views: dict[str, torch.Tensor], batch: Batch, tiling: Tiling
    ) -> torch.Tensor:
        """The layer's output for ``x``, ``(n, hidden)``."""
        work = self._begin(views, batch, x.dtype)
        normed = self._attention.normed(x, work)
        middle = self._attention.forward(normed, x, work, tiling, keep=False).take_middle()
        del normed
        work.drop("qkv", "out")
        for part in _tiles(x.shape[0], tiling.mlp_tokens):
            self._mlp.forward(middle, part, work)
        return middle

    def backward(
        self,
        fetch_input: Callable[[bool], torch.Tensor],
        slope: torch.Tensor,
        views: dict[str, torch.Tensor],
        batch: Batch,
        tiling: Tiling,
    ) -> None:
        """Turn the gradient of the layer's output into that of its input, in place.

        Gradients of the LoRA pairs are added to their parameters.

        Args:
            fetch_input: Gives the layer's input; called with True where it will be
                overwritten. Called twice where heads come in groups, so that the input need
                not stay in between.
            slope: ``(n, hidden)``, overwritten.
            views: The layer's frozen weights.
            batch: As forward.
            tiling: May differ from forward's, but for the tokens of the MLP.
        """
        begin_slopes(self._pairs)
        work = self._begin(views, batch, slope.dtype)
        in_one = tiling.head_groups == 1
        x = fetch_input(not in_one)
        normed = self._attention.normed(x, work)
        attended = self._attention.forward(normed, x, work, tiling, keep=True)
        middle = attended.take_middle()
        if not in_one:
            del x
        if not tiling.keep_unpacked:
            work.drop("qkv", "out")
        parts = list(_tiles(slope.shape[0], tiling.mlp_tokens))
        # Unpacking again costs less than a tile, and saves half the room for weights.
        frugal = len(parts) == 1 and not tiling.keep_unpacked
        for part in parts:
            self._mlp.backward(middle[part], slope[part], part.start, work, frugal)
        del middle
        work.drop("inner", "outer")
        normed_slope = self._attention.backward(normed, attended, slope, work, tiling)
        del normed, attended
        if not in_one:
            x = fetch_input(False)
        work.add_norm_backward("input_layernorm", x, normed_slope, slope)
        finish_slopes(self._pairs)

    def _begin(self, views: dict[str, torch.Tensor], batch: Batch, dtype: torch.dtype) -> LayerPass:
        return LayerPass(
            self._index, self._shape, self._layout, self._projections, views, batch, dtype
        )


def _tiles(n_tokens: int, size: int) -> Iterator[slice]:
    for start in range(0, n_tokens, size):
        yield slice(start, min(n_tokens, start + size))
