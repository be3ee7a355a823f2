"""Forward and backward pass of one decoder layer, with as few buffers as possible.

In units of one hidden state of all tokens: the forward pass holds the layer's input and output,
the normed input and one group of heads. The backward pass holds at most the incoming gradient, the
normed input and its gradient, attention's output, and one group of heads or one tile of the MLP;
:mod:`the_block_llm.models.layerwise.planner.memory_model` counts them.
"""

from collections.abc import Callable, Iterator

import torch

from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.layer_attention import AttentionBlock
from the_block_llm.models.layerwise.layer_context import BatchMetadata, LayerContext, Tiling
from the_block_llm.models.layerwise.layer_mlp import MlpBlock
from the_block_llm.models.layerwise.lora_linear import (
    LoraLinear,
    LoraPair,
    accumulate_lora_grads,
    zero_lora_grads,
)
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout


class DecoderLayer:
    """The computation of one layer; its frozen weights are passed to each call."""

    def __init__(
        self,
        index: int,
        shape: DecoderShape,
        layout: LayerLayout,
        lora_pairs: dict[str, LoraPair],
        dropout_probability: float,
    ) -> None:
        """Describe layer ``index``; ``lora_pairs`` are by Linear layer name."""
        self._index = index
        self._shape = shape
        self._layout = layout
        self._pairs = list(lora_pairs.values())
        mlp_in, mlp_out = (
            (("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))
            if shape.mlp == "swiglu"
            else (("mlp.c_fc",), ("mlp.c_proj",))
        )
        fused = {
            "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "attn_out": ("self_attn.o_proj",),
            "mlp_in": mlp_in,
            "mlp_out": mlp_out,
        }
        self._linears = {
            name: LoraLinear(parts, lora_pairs, dropout_probability)
            for name, parts in fused.items()
        }
        self._attention = AttentionBlock(shape, self._linears["qkv"], self._linears["attn_out"])
        self._mlp = MlpBlock(shape, self._linears["mlp_in"], self._linears["mlp_out"])

    def forward(
        self,
        x: torch.Tensor,
        tensors: dict[str, torch.Tensor],
        batch: BatchMetadata,
        tiling: Tiling,
    ) -> torch.Tensor:
        """Return the layer's output for ``x``, both ``(n, hidden_size)``."""
        ctx = self._context(tensors, batch, x.dtype)
        normed = self._attention.normed(x, ctx)
        hidden_states = self._attention.forward(
            normed, x, ctx, tiling, save_for_backward=False
        ).take_hidden_states()
        del normed
        ctx.free_weights("qkv", "attn_out")
        for tile in _tiles(x.shape[0], tiling.mlp_tile_tokens):
            self._mlp.forward(hidden_states, tile, ctx)
        return hidden_states

    def backward(
        self,
        fetch_input: Callable[[bool], torch.Tensor],
        grad: torch.Tensor,
        tensors: dict[str, torch.Tensor],
        batch: BatchMetadata,
        tiling: Tiling,
    ) -> None:
        """Turn the gradient of the layer's output into that of its input, in place.

        Gradients of the LoRA pairs are added to their parameters.

        Args:
            fetch_input: Returns the layer's input; the argument says whether it will be
                overwritten. With groups of heads it is called twice, so that the input need not
                stay in memory in between.
            grad: ``(n, hidden_size)``, overwritten.
            tensors: The layer's frozen weights.
            batch: As in the forward pass.
            tiling: As in the forward pass.
        """
        zero_lora_grads(self._pairs)
        ctx = self._context(tensors, batch, grad.dtype)
        is_single_group = tiling.head_groups == 1
        x = fetch_input(not is_single_group)
        normed = self._attention.normed(x, ctx)
        attention = self._attention.forward(normed, x, ctx, tiling, save_for_backward=True)
        hidden_states = attention.take_hidden_states()
        if not is_single_group:
            del x
        if not tiling.keep_dequantized:
            ctx.free_weights("qkv", "attn_out")
        tiles = list(_tiles(grad.shape[0], tiling.mlp_tile_tokens))
        # Dequantizing again takes less time than a tile, and halves the memory of the weights.
        free_weights = len(tiles) == 1 and not tiling.keep_dequantized
        for tile in tiles:
            self._mlp.backward(hidden_states[tile], grad[tile], tile.start, ctx, free_weights)
        del hidden_states
        ctx.free_weights("mlp_in", "mlp_out")
        grad_normed = self._attention.backward(normed, attention, grad, ctx, tiling)
        del normed, attention
        if not is_single_group:
            x = fetch_input(False)
        ctx.accumulate_norm_grad("input_layernorm", x, grad_normed, grad)
        accumulate_lora_grads(self._pairs)

    def _context(
        self, tensors: dict[str, torch.Tensor], batch: BatchMetadata, dtype: torch.dtype
    ) -> LayerContext:
        return LayerContext(
            self._index, self._shape, self._layout, self._linears, tensors, batch, dtype
        )


def _tiles(n_tokens: int, tile_tokens: int) -> Iterator[slice]:
    for start in range(0, n_tokens, tile_tokens):
        yield slice(start, min(n_tokens, start + tile_tokens))
