"""One decoder layer, forward and backward by hand, in as few buffers as it takes.

u stands for the memory of one hidden state of all tokens. Going forward a layer holds its
input and output, the normed input and one group of heads. Going back it holds at most the
incoming gradient, the normed input and its gradient, the attention's output, and one group
of heads or one tile of the MLP: see :mod:`the_block_llm.models.layerwise.plan`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from the_block_llm.models.layerwise import kernels
from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.attention import (
    AttentionOutput,
    Segments,
    attend,
    attend_backward,
)
from the_block_llm.models.layerwise.packing import LayerLayout
from the_block_llm.models.layerwise.projection import (
    LowRank,
    Projection,
    begin_slopes,
    finish_slopes,
)


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


@dataclass
class _Attended:
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
        self._qkv = Projection(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), low_ranks, dropout
        )
        self._out = Projection(("self_attn.o_proj",), low_ranks, dropout)
        inner, outer = (
            (("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))
            if shape.mlp == "swiglu"
            else (("mlp.c_fc",), ("mlp.c_proj",))
        )
        self._inner = Projection(inner, low_ranks, dropout)
        self._outer = Projection(outer, low_ranks, dropout)

    def forward(
        self, x: torch.Tensor, views: dict[str, torch.Tensor], batch: Batch, tiling: Tiling
    ) -> torch.Tensor:
        """The layer's output for ``x``, ``(n, hidden)``."""
        work = _Weights(self, views, x.dtype)
        normed = self._normed_for_attention(x, work, batch)
        middle = self._attend_all(normed, x, work, batch, tiling, keep=False).take_middle()
        del normed
        work.drop("qkv", "out")
        for part in _tiles(x.shape[0], tiling.mlp_tokens):
            self._mlp_forward(middle, part, work, batch)
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
        work = _Weights(self, views, slope.dtype)
        in_one = tiling.head_groups == 1
        x = fetch_input(not in_one)
        normed = self._normed_for_attention(x, work, batch)
        attended = self._attend_all(normed, x, work, batch, tiling, keep=True)
        middle = attended.take_middle()
        if not in_one:
            del x
        if not tiling.keep_unpacked:
            work.drop("qkv", "out")
        parts = list(_tiles(slope.shape[0], tiling.mlp_tokens))
        # Unpacking again costs less than a tile, and saves half the room for weights.
        frugal = len(parts) == 1 and not tiling.keep_unpacked
        for part in parts:
            self._mlp_backward(middle[part], slope[part], part.start, work, batch, frugal)
        del middle
        work.drop("inner", "outer")
        normed_slope = self._attention_backward(normed, attended, slope, work, batch, tiling)
        del normed, attended
        if not in_one:
            x = fetch_input(False)
        self._add_norm_backward("input_layernorm", x, work, normed_slope, slope)
        finish_slopes(self._pairs)

    # Attention

    def _normed_for_attention(
        self, x: torch.Tensor, work: "_Weights", batch: Batch
    ) -> torch.Tensor:
        """Normed ``x`` with the low-rank columns of queries, keys and values behind it."""
        width = self._shape.hidden
        normed = x.new_empty(x.shape[0], width + self._qkv.n_columns)
        self._norm("input_layernorm", x, work, normed[:, :width])
        self._qkv.fill_columns(
            normed[:, :width], normed[:, width:], work.down("qkv"), self._seed(batch, 0)
        )
        return normed

    def _attend_all(
        self,
        normed: torch.Tensor,
        x: torch.Tensor,
        work: "_Weights",
        batch: Batch,
        tiling: Tiling,
        keep: bool,
    ) -> _Attended:
        """Attention of all heads, group by group.

        Several groups with ``keep`` add up in ``x`` itself, which saves a u.
        """
        weight = work.get("out")
        width = self._n_queries
        columns = x.new_zeros(x.shape[0], self._out.n_columns)
        outputs: list[AttentionOutput] = []
        in_one = tiling.head_groups == 1
        middle = x
        projected: torch.Tensor | None = None
        for group in range(tiling.head_groups):
            projected = self._project_group(normed, work, batch, tiling, group)
            output = attend(
                *self._split(projected, tiling), batch.segments, self._shape.sliding_window
            )
            values = output.values.flatten(1)
            inputs = self._group_inputs(tiling, group)
            product = weight[:, :width][:, inputs].T
            if middle is x and (in_one or not keep):
                middle = torch.addmm(x, values, product)
            else:
                middle.addmm_(values, product)
            self._out.fill_columns(
                values, columns, work.down("out")[:, inputs], self._seed(batch, 1, group), add=True
            )
            if keep:
                outputs.append(output)
        if self._out.n_columns:
            middle.addmm_(columns, weight[:, width:].T)
        self._add_bias(self._out, middle, work)
        return _Attended(middle, columns, outputs, projected if keep and in_one else None)

    def _project_group(
        self, normed: torch.Tensor, work: "_Weights", batch: Batch, tiling: Tiling, group: int
    ) -> torch.Tensor:
        weight, bias = self._group_weight(work, tiling, group)
        projected = normed @ weight.T if bias is None else torch.addmm(bias, normed, weight.T)
        turning = (self._shape.n_heads + self._shape.n_kv_heads) // tiling.head_groups
        kernels.rotate_heads(projected, turning, batch.cosine, batch.sine)
        return projected

    def _group_weight(
        self, work: "_Weights", tiling: Tiling, group: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight = work.get("qkv")
        bias = self._qkv.bias(work.linears)
        if tiling.head_groups == 1:
            return weight, bias
        rows = self._group_rows(tiling, group)
        return (
            torch.cat([weight[part] for part in rows]),
            None if bias is None else torch.cat([bias[part] for part in rows]),
        )

    def _attention_backward(
        self,
        normed: torch.Tensor,
        attended: _Attended,
        slope: torch.Tensor,
        work: "_Weights",
        batch: Batch,
        tiling: Tiling,
    ) -> torch.Tensor:
        """Gradient of the normed input, given that of attention's output."""
        hidden = self._shape.hidden
        out_weight = work.get("out")
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
                work.down("out")[:, inputs], self._seed(batch, 1, group), inputs,
            )  # fmt: skip
            projected, attended.projected = attended.projected, None
            if projected is None:
                projected = self._project_group(normed, work, batch, tiling, group)
            gradients = attend_backward(
                values_slope.view_as(output.values), *self._split(projected, tiling),
                output, batch.segments, self._shape.sliding_window,
            )  # fmt: skip
            del projected, output, values_slope
            flat = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
            del gradients
            turning = (self._shape.n_heads + self._shape.n_kv_heads) // tiling.head_groups
            kernels.rotate_heads(flat, turning, batch.cosine, batch.sine, back=True)
            self._qkv.low_rank_up_backward(
                flat, normed[:, hidden:], self._group_places(tiling, group)
            )
            weight, _ = self._group_weight(work, tiling, group)
            first = group == tiling.head_groups - 1
            gathered = flat @ weight if first else gathered.addmm_(flat, weight)
            del flat
        self._qkv.low_rank_down_backward(
            normed[:, :hidden], gathered[:, hidden:], gathered[:, :hidden],
            work.down("qkv"), self._seed(batch, 0),
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

    # MLP

    def _mlp_forward(
        self, middle: torch.Tensor, part: slice, work: "_Weights", batch: Batch
    ) -> None:
        """Add the MLP's output for a tile to ``middle``."""
        normed, inner, active = self._mlp_recompute(middle[part], part.start, work, batch)
        del normed, inner
        middle[part].addmm_(active, work.get("outer").T)
        self._add_bias(self._outer, middle[part], work)

    def _mlp_recompute(
        self, middle: torch.Tensor, start: int, work: "_Weights", batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normed input, inner projection and activation of a tile, with low-rank columns."""
        hidden, width = self._shape.hidden, self._shape.intermediate
        normed = middle.new_empty(middle.shape[0], hidden + self._inner.n_columns)
        self._norm("post_attention_layernorm", middle, work, normed[:, :hidden])
        self._inner.fill_columns(
            normed[:, :hidden], normed[:, hidden:], work.down("inner"), self._seed(batch, 2, start)
        )
        bias = self._inner.bias(work.linears)
        weight = work.get("inner")
        inner = normed @ weight.T if bias is None else torch.addmm(bias, normed, weight.T)
        active = middle.new_empty(middle.shape[0], width + self._outer.n_columns)
        activate = kernels.swiglu if self._shape.mlp == "swiglu" else kernels.gelu
        activate(inner, active[:, :width])
        self._outer.fill_columns(
            active[:, :width], active[:, width:], work.down("outer"), self._seed(batch, 3, start)
        )
        return normed, inner, active

    def _mlp_backward(
        self,
        middle: torch.Tensor,
        slope: torch.Tensor,
        start: int,
        work: "_Weights",
        batch: Batch,
        frugal: bool,
    ) -> None:
        """Add to ``slope`` what a tile's input gets through the MLP."""
        hidden, width = self._shape.hidden, self._shape.intermediate
        normed, inner, active = self._mlp_recompute(middle, start, work, batch)
        if frugal:
            work.drop("inner")
        whole = slice(None)
        self._outer.low_rank_up_backward(
            slope, active[:, width:], {self._outer.names[0]: (whole, whole)}
        )
        active_slope = slope @ work.get("outer")
        if frugal:
            work.drop("outer")
        self._outer.low_rank_down_backward(
            active[:, :width], active_slope[:, width:], active_slope[:, :width],
            work.down("outer"), self._seed(batch, 3, start),
        )  # fmt: skip
        del active
        if self._shape.mlp == "swiglu":
            kernels.swiglu_backward(inner, active_slope[:, :width])
        else:
            kernels.gelu_backward(inner, active_slope[:, :width])
        del active_slope
        places = {
            name: (slice(number * width, (number + 1) * width), whole)
            for number, name in enumerate(self._inner.names)
        }
        self._inner.low_rank_up_backward(inner, normed[:, hidden:], places)
        normed_slope = inner @ work.get("inner")
        self._inner.low_rank_down_backward(
            normed[:, :hidden], normed_slope[:, hidden:], normed_slope[:, :hidden],
            work.down("inner"), self._seed(batch, 2, start),
        )  # fmt: skip
        self._add_norm_backward(
            "post_attention_layernorm", middle, work, normed_slope[:, :hidden], slope
        )

    # Norms, biases, seeds

    def _norm(self, name: str, x: torch.Tensor, work: "_Weights", out: torch.Tensor) -> None:
        weight = work.views[f"{name}.weight"]
        if self._shape.norm == "rms":
            kernels.rms_norm(x, weight, self._shape.norm_eps, out)
        else:
            kernels.layer_norm(x, weight, work.views[f"{name}.bias"], self._shape.norm_eps, out)

    def _add_norm_backward(
        self,
        name: str,
        x: torch.Tensor,
        work: "_Weights",
        slope: torch.Tensor,
        into: torch.Tensor,
    ) -> None:
        weight, eps = work.views[f"{name}.weight"], self._shape.norm_eps
        if self._shape.norm == "rms":
            kernels.add_rms_norm_backward(x, weight, eps, slope, into)
        else:
            bias = work.views[f"{name}.bias"]
            kernels.add_layer_norm_backward(x, weight, bias, eps, slope, into)

    def _add_bias(self, projection: Projection, into: torch.Tensor, work: "_Weights") -> None:
        bias = projection.bias(work.linears)
        if bias is not None:
            into.add_(bias)

    def _seed(self, batch: Batch, projection: int, start: int = 0) -> int | None:
        """One seed for each input of a projection and run of tokens; none without dropout."""
        if batch.dropout_seed is None:
            return None
        return batch.dropout_seed + ((self._index * 4 + projection) << 24) + start

    def unpack(self, work: "_Weights", which: str) -> torch.Tensor:
        """The joint weight of one projection."""
        return self._projection(which).weight(work.linears, work.dtype)

    def down_matrix(self, work: "_Weights", which: str) -> torch.Tensor:
        """The joint A of one projection."""
        return self._projection(which).down_matrix(work.dtype)

    def _projection(self, which: str) -> Projection:
        projection: Projection = getattr(self, f"_{which}")
        return projection

    def linears(self, views: dict[str, torch.Tensor]) -> dict[str, kernels.PackedLinear]:
        """The packed Linear layers in ``views``."""
        return self._layout.linears(views)


class _Weights:
    """A layer's weights during one pass, each unpacked when it is first needed."""

    def __init__(
        self, layer: DecoderLayer, views: dict[str, torch.Tensor], dtype: torch.dtype
    ) -> None:
        self._layer = layer
        self.views = views
        self.dtype = dtype
        self.linears = layer.linears(views)
        self._unpacked: dict[str, torch.Tensor] = {}
        self._downs: dict[str, torch.Tensor] = {}

    def get(self, which: str) -> torch.Tensor:
        if which not in self._unpacked:
            self._unpacked[which] = self._layer.unpack(self, which)
        return self._unpacked[which]

    def down(self, which: str) -> torch.Tensor:
        """The joint A of a projection; small, so it stays."""
        if which not in self._downs:
            self._downs[which] = self._layer.down_matrix(self, which)
        return self._downs[which]

    def drop(self, *which: str) -> None:
        for name in which:
            self._unpacked.pop(name, None)


def _tiles(n_tokens: int, size: int) -> Iterator[slice]:
    for start in range(0, n_tokens, size):
        yield slice(start, min(n_tokens, start + size))
