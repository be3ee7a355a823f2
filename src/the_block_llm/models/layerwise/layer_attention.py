"""Attention of a decoder layer, forward and backward, for all heads or in groups of heads."""

from dataclasses import dataclass

import torch

from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.kernels.attention import (
    AttentionOutput,
    varlen_attention,
    varlen_attention_backward,
)
from the_block_llm.models.layerwise.kernels.rotary import apply_rotary_
from the_block_llm.models.layerwise.layer_context import LayerContext, Tiling
from the_block_llm.models.layerwise.lora_linear import LoraLinear


@dataclass
class AttentionActivations:
    """The output of :meth:`AttentionBlock.forward`, and what its backward pass needs."""

    hidden_states: torch.Tensor
    """``(n, hidden_size)``: input plus attention's output."""
    lora_hidden: torch.Tensor
    """``(n, padded_rank)``: LoRA columns of the output projection."""
    outputs: list[AttentionOutput]
    """Per group of heads."""
    qkv: torch.Tensor | None
    """Queries, keys and values after rotation, if all heads are one group."""

    def take_hidden_states(self) -> torch.Tensor:
        """Return the hidden states and drop the reference, so that the caller can free them."""
        states, self.hidden_states = self.hidden_states, self.hidden_states.new_empty(0)
        return states


class AttentionBlock:
    """The norm, attention and its residual connection."""

    def __init__(self, shape: DecoderShape, qkv: LoraLinear, attn_out: LoraLinear) -> None:
        """Take the fused projection of queries, keys and values, and the output projection."""
        self._shape = shape
        self._qkv = qkv
        self._attn_out = attn_out

    def normed(self, x: torch.Tensor, ctx: LayerContext) -> torch.Tensor:
        """Return the norm of ``x``, augmented with the LoRA columns of the QKV projection."""
        hidden_size = self._shape.hidden_size
        normed = x.new_empty(x.shape[0], hidden_size + self._qkv.padded_rank)
        ctx.norm("input_layernorm", x, normed[:, :hidden_size])
        self._qkv.lora_a_forward(
            normed[:, :hidden_size], normed[:, hidden_size:], ctx.lora_a("qkv"), ctx.dropout_seed(0)
        )
        return normed

    def forward(
        self,
        normed: torch.Tensor,
        x: torch.Tensor,
        ctx: LayerContext,
        tiling: Tiling,
        save_for_backward: bool,
    ) -> AttentionActivations:
        """Compute attention one group of heads at a time, and add it to ``x``.

        With several groups and ``save_for_backward`` the sum is in ``x`` itself, which saves one
        hidden state.
        """
        weight = ctx.weight("attn_out")
        query_size = self._shape.query_size
        lora_hidden = x.new_zeros(x.shape[0], self._attn_out.padded_rank)
        outputs: list[AttentionOutput] = []
        is_single_group = tiling.head_groups == 1
        hidden_states = x
        qkv: torch.Tensor | None = None
        for group in range(tiling.head_groups):
            qkv = self._project_qkv(normed, ctx, tiling, group)
            output = varlen_attention(
                *self._split_heads(qkv, tiling), ctx.batch.segments, self._shape.sliding_window
            )
            group_output = output.output.flatten(1)
            features = self._group_features(tiling, group)
            group_weight = weight[:, :query_size][:, features].T
            if hidden_states is x and (is_single_group or not save_for_backward):
                hidden_states = torch.addmm(x, group_output, group_weight)
            else:
                hidden_states.addmm_(group_output, group_weight)
            self._attn_out.lora_a_forward(
                group_output, lora_hidden, ctx.lora_a("attn_out")[:, features],
                ctx.dropout_seed(1, group), accumulate=True,
            )  # fmt: skip
            if save_for_backward:
                outputs.append(output)
        if self._attn_out.padded_rank:
            hidden_states.addmm_(lora_hidden, weight[:, query_size:].T)
        ctx.add_bias_("attn_out", hidden_states)
        saved_qkv = qkv if save_for_backward and is_single_group else None
        return AttentionActivations(hidden_states, lora_hidden, outputs, saved_qkv)

    def _project_qkv(
        self, normed: torch.Tensor, ctx: LayerContext, tiling: Tiling, group: int
    ) -> torch.Tensor:
        """Return a group's queries, keys and values, rotated by position."""
        weight, bias = self._group_qkv_weight(ctx, tiling, group)
        qkv = normed @ weight.T if bias is None else torch.addmm(bias, normed, weight.T)
        n_rotated = (self._shape.n_heads + self._shape.n_kv_heads) // tiling.head_groups
        apply_rotary_(qkv, n_rotated, ctx.batch.cos, ctx.batch.sin)
        return qkv

    def _group_qkv_weight(
        self, ctx: LayerContext, tiling: Tiling, group: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight = ctx.weight("qkv")
        bias = ctx.bias("qkv")
        if tiling.head_groups == 1:
            return weight, bias
        row_slices = self._group_qkv_rows(tiling, group)
        return (
            torch.cat([weight[rows] for rows in row_slices]),
            None if bias is None else torch.cat([bias[rows] for rows in row_slices]),
        )

    def backward(
        self,
        normed: torch.Tensor,
        activations: AttentionActivations,
        grad_output: torch.Tensor,
        ctx: LayerContext,
        tiling: Tiling,
    ) -> torch.Tensor:
        """Return the gradient of the normed input, ``(n, hidden_size)``."""
        hidden_size = self._shape.hidden_size
        out_weight = ctx.weight("attn_out")
        grad_lora_hidden = grad_output @ out_weight[:, self._shape.query_size :]
        all_rows = slice(None)
        self._attn_out.accumulate_lora_b_grad(
            grad_output, activations.lora_hidden, {"self_attn.o_proj": (all_rows, all_rows)}
        )
        grad_normed = grad_output.new_empty(0)
        # Popped from the end of the list, so that each group's output is freed after its use.
        for group in reversed(range(tiling.head_groups)):
            output = activations.outputs.pop()
            features = self._group_features(tiling, group)
            grad_group_output = grad_output @ out_weight[:, features]
            self._attn_out.lora_a_backward(
                output.output.flatten(1), grad_lora_hidden, grad_group_output,
                ctx.lora_a("attn_out")[:, features], ctx.dropout_seed(1, group), features,
            )  # fmt: skip
            qkv, activations.qkv = activations.qkv, None
            if qkv is None:
                qkv = self._project_qkv(normed, ctx, tiling, group)
            grad_qkv = varlen_attention_backward(
                grad_group_output.view_as(output.output), *self._split_heads(qkv, tiling),
                output, ctx.batch.segments, self._shape.sliding_window,
            ).flatten(1)  # fmt: skip
            del qkv, output, grad_group_output
            n_rotated = (self._shape.n_heads + self._shape.n_kv_heads) // tiling.head_groups
            apply_rotary_(grad_qkv, n_rotated, ctx.batch.cos, ctx.batch.sin, inverse=True)
            self._qkv.accumulate_lora_b_grad(
                grad_qkv, normed[:, hidden_size:], self._group_lora_b_slices(tiling, group)
            )
            weight, _ = self._group_qkv_weight(ctx, tiling, group)
            is_first = group == tiling.head_groups - 1
            grad_normed = grad_qkv @ weight if is_first else grad_normed.addmm_(grad_qkv, weight)
            del grad_qkv
        self._qkv.lora_a_backward(
            normed[:, :hidden_size], grad_normed[:, hidden_size:], grad_normed[:, :hidden_size],
            ctx.lora_a("qkv"), ctx.dropout_seed(0),
        )  # fmt: skip
        return grad_normed[:, :hidden_size]

    def _group_features(self, tiling: Tiling, group: int) -> slice:
        """Return the group's features of attention's output."""
        group_size = self._shape.query_size // tiling.head_groups
        return slice(group * group_size, (group + 1) * group_size)

    def _group_qkv_rows(self, tiling: Tiling, group: int) -> list[slice]:
        """Return the rows of the QKV weight for the group's queries, keys and values."""
        query_size, kv_size = self._shape.query_size, self._shape.kv_size
        row_slices = []
        for start, size in (
            (0, query_size),
            (query_size, kv_size),
            (query_size + kv_size, kv_size),
        ):
            group_size = size // tiling.head_groups
            row_slices.append(slice(start + group * group_size, start + (group + 1) * group_size))
        return row_slices

    def _group_lora_b_slices(self, tiling: Tiling, group: int) -> dict[str, tuple[slice, slice]]:
        """Return, by layer, its columns of the group's QKV and the rows of B they are for."""
        slices = {}
        layer_start = column = 0
        for name, rows in zip(self._qkv.names, self._group_qkv_rows(tiling, group), strict=True):
            group_size = rows.stop - rows.start
            slices[name] = (
                slice(column, column + group_size),
                slice(rows.start - layer_start, rows.stop - layer_start),
            )
            column += group_size
            layer_start += group_size * tiling.head_groups
        return slices

    def _split_heads(
        self, qkv: torch.Tensor, tiling: Tiling
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return a group's queries, keys and values as views, ``(n, heads, head_dim)``."""
        shape, n_groups = self._shape, tiling.head_groups
        heads = qkv.unflatten(1, (-1, shape.head_dim))
        n_heads, n_kv_heads = shape.n_heads // n_groups, shape.n_kv_heads // n_groups
        queries, keys, values = heads.split([n_heads, n_kv_heads, n_kv_heads], dim=1)
        return queries, keys, values
