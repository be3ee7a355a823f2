"""Attention of a decoder layer, forward and backward by hand, heads in groups or in one."""

from dataclasses import dataclass

import torch

from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.kernels import fused
from the_block_llm.models.layerwise.kernels.attention import (
    AttentionOutput,
    attend,
    attend_backward,
)
from the_block_llm.models.layerwise.layer_context import LayerPass, Tiling
from the_block_llm.models.layerwise.lora_linear import Projection


@dataclass
class Attended:
    """What attention gives: the state after it, and what its backward pass needs."""

    middle: torch.Tensor
    """``(n, hidden)``: input plus attention's output."""
    columns: torch.Tensor
    """Low-rank columns of the output projection."""
    outputs: list[AttentionOutput]
    """By group of heads."""
    projected: torch.Tensor | None
    """Queries, keys and values, turned by position, where all heads are one group."""

    def take_middle(self) -> torch.Tensor:
        """Hand the state over, so that whoever takes it can free it."""
        middle, self.middle = self.middle, self.middle.new_empty(0)
        return middle


class AttentionHalf:
    """The norm, attention and its residual."""

    def __init__(self, shape: DecoderShape, qkv: Projection, out: Projection) -> None:
        """Take the joint projection of queries, keys and values, and that of the output."""
        self._shape = shape
        self._qkv = qkv
        self._out = out

    def normed(self, x: torch.Tensor, work: LayerPass) -> torch.Tensor:
        """Normed ``x`` with the low-rank columns of queries, keys and values behind it."""
        width = self._shape.hidden
        normed = x.new_empty(x.shape[0], width + self._qkv.n_columns)
        work.norm("input_layernorm", x, normed[:, :width])
        self._qkv.fill_columns(normed[:, :width], normed[:, width:], work.down("qkv"), work.seed(0))
        return normed

    def forward(
        self,
        normed: torch.Tensor,
        x: torch.Tensor,
        work: LayerPass,
        tiling: Tiling,
        keep: bool,
    ) -> Attended:
        """Attention of all heads, group by group.

        Several groups with ``keep`` add up in ``x`` itself, which saves a u.
        """
        weight = work.weight("out")
        width = self._n_queries
        columns = x.new_zeros(x.shape[0], self._out.n_columns)
        outputs: list[AttentionOutput] = []
        in_one = tiling.head_groups == 1
        middle = x
        projected: torch.Tensor | None = None
        for group in range(tiling.head_groups):
            projected = self._project_group(normed, work, tiling, group)
            output = attend(
                *self._split(projected, tiling), work.batch.segments, self._shape.sliding_window
            )
            values = output.values.flatten(1)
            inputs = self._group_inputs(tiling, group)
            product = weight[:, :width][:, inputs].T
            if middle is x and (in_one or not keep):
                middle = torch.addmm(x, values, product)
            else:
                middle.addmm_(values, product)
            self._out.fill_columns(
                values, columns, work.down("out")[:, inputs], work.seed(1, group), add=True
            )
            if keep:
                outputs.append(output)
        if self._out.n_columns:
            middle.addmm_(columns, weight[:, width:].T)
        work.add_bias("out", middle)
        return Attended(middle, columns, outputs, projected if keep and in_one else None)

    def _project_group(
        self, normed: torch.Tensor, work: LayerPass, tiling: Tiling, group: int
    ) -> torch.Tensor:
        weight, bias = self._group_weight(work, tiling, group)
        projected = normed @ weight.T if bias is None else torch.addmm(bias, normed, weight.T)
        turning = (self._shape.n_heads + self._shape.n_kv_heads) // tiling.head_groups
        fused.rotate_heads(projected, turning, work.batch.cosine, work.batch.sine)
        return projected

    def _group_weight(
        self, work: LayerPass, tiling: Tiling, group: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight = work.weight("qkv")
        bias = work.bias("qkv")
        if tiling.head_groups == 1:
            return weight, bias
        rows = self._group_rows(tiling, group)
        return (
            torch.cat([weight[part] for part in rows]),
            None if bias is None else torch.cat([bias[part] for part in rows]),
        )

    def backward(
        self,
        normed: torch.Tensor,
        attended: Attended,
        slope: torch.Tensor,
        work: LayerPass,
        tiling: Tiling,
    ) -> torch.Tensor:
        """Gradient of the normed input, given that of attention's output."""
        hidden = self._shape.hidden
        out_weight = work.weight("out")
        column_slope = slope @ out_weight[:, self._n_queries :]
        whole = slice(None)
        self._out.low_rank_up_backward(
            slope, attended.columns, {"self_attn.o_proj": (whole, whole)}
        )
        gathered = slope.new_empty(0)
        # From the list's end, so that each group's memory is free as soon as it is done.
        for group in reversed(range(tiling.head_groups)):
            output = attended.outputs.pop()
            inputs = self._group_inputs(tiling, group)
            values_slope = slope @ out_weight[:, inputs]
            self._out.low_rank_down_backward(
                output.values.flatten(1), column_slope, values_slope,
                work.down("out")[:, inputs], work.seed(1, group), inputs,
            )  # fmt: skip
            projected, attended.projected = attended.projected, None
            if projected is None:
                projected = self._project_group(normed, work, tiling, group)
            flat = attend_backward(
                values_slope.view_as(output.values), *self._split(projected, tiling),
                output, work.batch.segments, self._shape.sliding_window,
            ).flatten(1)  # fmt: skip
            del projected, output, values_slope
            turning = (self._shape.n_heads + self._shape.n_kv_heads) // tiling.head_groups
            fused.rotate_heads(flat, turning, work.batch.cosine, work.batch.sine, back=True)
            self._qkv.low_rank_up_backward(
                flat, normed[:, hidden:], self._group_places(tiling, group)
            )
            weight, _ = self._group_weight(work, tiling, group)
            first = group == tiling.head_groups - 1
            gathered = flat @ weight if first else gathered.addmm_(flat, weight)
            del flat
        self._qkv.low_rank_down_backward(
            normed[:, :hidden], gathered[:, hidden:], gathered[:, :hidden],
            work.down("qkv"), work.seed(0),
        )  # fmt: skip
        return gathered[:, :hidden]

    @property
    def _n_queries(self) -> int:
        return self._shape.n_heads * self._shape.head_dim

    def _group_inputs(self, tiling: Tiling, group: int) -> slice:
        width = self._n_queries // tiling.head_groups
        return slice(group * width, (group + 1) * width)

    def _group_rows(self, tiling: Tiling, group: int) -> list[slice]:
        """Rows of the joint weight that make the group's queries, keys and values."""
        queries = self._n_queries
        keys = self._shape.n_kv_heads * self._shape.head_dim
        rows = []
        for start, total in ((0, queries), (queries, keys), (queries + keys, keys)):
            width = total // tiling.head_groups
            rows.append(slice(start + group * width, start + (group + 1) * width))
        return rows

    def _group_places(self, tiling: Tiling, group: int) -> dict[str, tuple[slice, slice]]:
        """By layer: its columns among the group's outputs, its rows of its own weight."""
        places = {}
        before = column = 0
        for name, part in zip(self._qkv.names, self._group_rows(tiling, group), strict=True):
            width = part.stop - part.start
            places[name] = (
                slice(column, column + width),
                slice(part.start - before, part.stop - before),
            )
            column += width
            before += width * tiling.head_groups
        return places

    def _split(
        self, projected: torch.Tensor, tiling: Tiling
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of a group, as heads, without a copy."""
        shape, parts = self._shape, tiling.head_groups
        heads = projected.unflatten(1, (-1, shape.head_dim))
        n_queries, n_keys = shape.n_heads // parts, shape.n_kv_heads // parts
        queries, keys, values = heads.split([n_queries, n_keys, n_keys], dim=1)
        return queries, keys, values
