"""Several frozen 4-bit Linear layers that read the same input, with LoRA, as one product.

The low-rank part costs no pass of its own: the inputs carry its columns behind their own,
``[x | x Aᵀ]``, the weight has ``[W | s B]``, and one matrix product gives ``x Wᵀ + s x Aᵀ Bᵀ``.
Its backward product gives the gradients of ``x`` and of ``x Aᵀ`` at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from the_block_llm.models.layerwise.kernels.fused import PackedLinear, add_dropped, dropped

# Numbers that one seed of dropout serves: 56 MiB in 16 bits.
_DROPOUT_ELEMENTS: Final = 28 * 2**20
# Matrix products want rows of 16 bytes.
_COLUMN_MULTIPLE: Final = 8


@dataclass
class LowRank:
    """The LoRA pair of one Linear layer: ``s B A`` is added to its weight."""

    down: torch.nn.Parameter
    """A, ``(r, in_features)``."""
    up: torch.nn.Parameter
    """B, ``(out_features, r)``."""
    scale: float
    down_slope: torch.Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    up_slope: torch.Tensor = field(default_factory=lambda: torch.empty(0), repr=False)


def begin_slopes(pairs: Sequence[LowRank]) -> None:
    """Start collecting the gradients of a layer's pairs, in float32 whatever the parameters are."""
    matrices = [matrix for pair in pairs for matrix in (pair.down, pair.up)]
    if not matrices:
        return
    # One buffer: filling each matrix on its own is a launch each, which small models wait for.
    whole = torch.zeros(
        sum(matrix.numel() for matrix in matrices), dtype=torch.float32, device=matrices[0].device
    )
    parts = whole.split([matrix.numel() for matrix in matrices])
    for number, pair in enumerate(pairs):
        pair.down_slope = parts[2 * number].view(pair.down.shape)
        pair.up_slope = parts[2 * number + 1].view(pair.up.shape)


def finish_slopes(pairs: Sequence[LowRank]) -> None:
    """Add what was collected to the parameters' gradients, as autograd would."""
    kept, slopes = [], []
    for pair in pairs:
        for parameter, slope in ((pair.down, pair.down_slope), (pair.up, pair.up_slope)):
            if parameter.grad is None:
                parameter.grad = slope.to(parameter.dtype)
            else:
                kept.append(parameter.grad)
                slopes.append(slope.to(parameter.dtype))
        pair.down_slope = pair.up_slope = torch.empty(0)
    if kept:
        torch._foreach_add_(kept, slopes)


class Projection:
    """Linear layers side by side: their outputs stand one behind the other."""

    def __init__(
        self, names: tuple[str, ...], low_ranks: dict[str, LowRank], dropout: float
    ) -> None:
        """Describe the layers.

        Args:
            names: Of the Linear layers, in the order of their outputs.
            low_ranks: LoRA pairs by name, of those that have one.
            dropout: Of LoRA's input, in training; one mask serves the layers of a projection.
        """
        self.names = names
        self.dropout = dropout
        self._pairs = [(name, low_ranks[name]) for name in names if name in low_ranks]
        self._columns: dict[str, slice] = {}
        ranks = 0
        for name, pair in self._pairs:
            self._columns[name] = slice(ranks, ranks + pair.down.shape[0])
            ranks += pair.down.shape[0]
        self.n_columns = -(-ranks // _COLUMN_MULTIPLE) * _COLUMN_MULTIPLE
        """Columns behind the input's own, for the low-rank part."""

    @property
    def pairs(self) -> list[LowRank]:
        """The LoRA pairs."""
        return [pair for _, pair in self._pairs]

    def weight(self, linears: dict[str, PackedLinear], dtype: torch.dtype) -> torch.Tensor:
        """``[W | s B]``, ``(all outputs, in_features + n_columns)``, unpacked."""
        parts = [linears[name] for name in self.names]
        width = parts[0].in_features
        n_rows = sum(part.out_features for part in parts)
        weight = torch.empty(
            n_rows, width + self.n_columns, dtype=dtype, device=parts[0].packed.device
        )
        if self.n_columns:
            weight[:, width:].zero_()
        row = 0
        rows: dict[str, slice] = {}
        for name, part in zip(self.names, parts, strict=True):
            part.unpack_into(weight[row : row + part.out_features, :width])
            rows[name] = slice(row, row + part.out_features)
            row += part.out_features
        for name, pair in self._pairs:
            target = weight[rows[name], width:][:, self._columns[name]]
            torch.mul(pair.up.detach(), pair.scale, out=target)
        return weight

    def bias(self, linears: dict[str, PackedLinear]) -> torch.Tensor | None:
        """The biases of all outputs."""
        biases = [linears[name].bias for name in self.names]
        if biases[0] is None:
            return None
        return torch.cat([bias for bias in biases if bias is not None])

    def down_matrix(self, dtype: torch.dtype) -> torch.Tensor:
        """All A one below the other, ``(n_columns, in_features)``, in ``dtype``."""
        if not self.n_columns:
            return torch.empty(0, 0, dtype=dtype)
        first = self.pairs[0].down
        whole = torch.empty(self.n_columns, first.shape[1], dtype=dtype, device=first.device)
        row = 0
        for pair in self.pairs:
            whole[row : row + pair.down.shape[0]].copy_(pair.down.detach())
            row += pair.down.shape[0]
        whole[row:].zero_()
        return whole

    def fill_columns(
        self,
        x: torch.Tensor,
        columns: torch.Tensor,
        down: torch.Tensor,
        seed: int | None,
        add: bool = False,
    ) -> None:
        """Write (or add) ``dropout(x) Aᵀ`` into ``columns``.

        Args:
            x: ``(n, in_features)``, or some of the features.
            columns: ``(n, n_columns)``, strided.
            down: :meth:`down_matrix`, for those features.
            seed: Of the dropout; none: no dropout.
            add: Whether to add.
        """
        if not self.n_columns:
            return
        for part, own in self._parts(x, seed):
            values = x[part] if own is None else dropped(x[part], self.dropout, own)
            if add:
                columns[part].addmm_(values, down.T)
            else:
                torch.mm(values, down.T, out=columns[part])

    def low_rank_up_backward(
        self, slope: torch.Tensor, columns: torch.Tensor, rows: dict[str, tuple[slice, slice]]
    ) -> None:
        """Collect the gradients of B.

        Args:
            slope: Gradient of (a group of) outputs, ``(n, …)``.
            columns: ``x Aᵀ``, ``(n, n_columns)``.
            rows: By name, the columns of ``slope`` and the rows of B that they belong to.
        """
        for name, pair in self._pairs:
            here, there = rows[name]
            product = slope[:, here].T @ columns[:, self._columns[name]]
            pair.up_slope[there].add_(product, alpha=pair.scale)

    def low_rank_down_backward(
        self,
        x: torch.Tensor,
        column_slope: torch.Tensor,
        into: torch.Tensor,
        down: torch.Tensor,
        seed: int | None,
        inputs: slice = slice(None),
    ) -> None:
        """Collect the gradients of A, and add to ``into`` what the input gets through it.

        Args:
            x: The input, or the part ``inputs`` of its features, ``(n, …)``.
            column_slope: Gradient of ``x Aᵀ``, ``(n, n_columns)``.
            into: Gradient of ``x``, added to.
            down: :meth:`down_matrix`, for those features.
            seed: As in :meth:`fill_columns`.
            inputs: Which of the input's features ``x`` has.
        """
        if not self.n_columns:
            return
        total = torch.zeros(down.shape, dtype=torch.float32, device=down.device)
        for part, own in self._parts(x, seed):
            slope = column_slope[part]
            if own is None:
                total.add_(slope.T @ x[part])
                into[part].addmm_(slope, down)
            else:
                total.add_(slope.T @ dropped(x[part], self.dropout, own))
                add_dropped(into[part], slope @ down, self.dropout, own)
        for name, pair in self._pairs:
            pair.down_slope[:, inputs].add_(total[self._columns[name]])

    def _parts(self, x: torch.Tensor, seed: int | None) -> Iterator[tuple[slice, int | None]]:
        """Runs of tokens, and each one's own seed where there is dropout."""
        n_tokens = x.shape[0]
        if seed is None or not self.dropout:
            yield slice(0, n_tokens), None
            return
        # A copy of the input stands beside it meanwhile, so wide inputs go in shorter runs.
        size = max(1, _DROPOUT_ELEMENTS // x.shape[1])
        for number, start in enumerate(range(0, n_tokens, size)):
            yield slice(start, start + size), seed + number
