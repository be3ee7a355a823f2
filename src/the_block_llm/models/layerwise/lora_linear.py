"""Frozen 4-bit Linear layers with the same input, and their LoRA, as one matrix product.

The input is augmented with the low-rank activations, ``[x | x Aᵀ]``, and the weight is
``[W | s B]``: one product gives ``x Wᵀ + s x Aᵀ Bᵀ``, and its backward product gives the gradients
of ``x`` and of ``x Aᵀ`` together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from the_block_llm.models.layerwise.kernels.dropout import dropout, dropout_backward
from the_block_llm.models.layerwise.kernels.nf4 import NF4Linear

# Elements per dropout seed: 56 MiB in 16 bits.
_DROPOUT_CHUNK_ELEMENTS: Final = 28 * 2**20
# Rows of matrix products are aligned to 16 bytes.
_RANK_MULTIPLE: Final = 8


@dataclass
class LoraPair:
    """The LoRA matrices of one Linear layer, which add ``s B A`` to its weight."""

    lora_a: torch.nn.Parameter
    """``(r, in_features)``."""
    lora_b: torch.nn.Parameter
    """``(out_features, r)``."""
    scaling: float
    grad_a: torch.Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    grad_b: torch.Tensor = field(default_factory=lambda: torch.empty(0), repr=False)


def zero_lora_grads(pairs: Sequence[LoraPair]) -> None:
    """Allocate zeroed float32 gradient buffers for a layer's pairs."""
    matrices = [matrix for pair in pairs for matrix in (pair.lora_a, pair.lora_b)]
    if not matrices:
        return
    # One buffer: zeroing each matrix separately costs a kernel launch each, on which small models
    # are bound.
    buffer = torch.zeros(
        sum(matrix.numel() for matrix in matrices), dtype=torch.float32, device=matrices[0].device
    )
    grads = buffer.split([matrix.numel() for matrix in matrices])
    for number, pair in enumerate(pairs):
        pair.grad_a = grads[2 * number].view(pair.lora_a.shape)
        pair.grad_b = grads[2 * number + 1].view(pair.lora_b.shape)


def accumulate_lora_grads(pairs: Sequence[LoraPair]) -> None:
    """Add the gradient buffers to the parameters' ``.grad``, as autograd would."""
    totals, new_grads = [], []
    for pair in pairs:
        for parameter, grad in ((pair.lora_a, pair.grad_a), (pair.lora_b, pair.grad_b)):
            if parameter.grad is None:
                parameter.grad = grad.to(parameter.dtype)
            else:
                totals.append(parameter.grad)
                new_grads.append(grad.to(parameter.dtype))
        pair.grad_a = pair.grad_b = torch.empty(0)
    if totals:
        torch._foreach_add_(totals, new_grads)


class LoraLinear:
    """Linear layers fused along their outputs, with LoRA."""

    def __init__(
        self, names: tuple[str, ...], lora_pairs: dict[str, LoraPair], dropout_probability: float
    ) -> None:
        """Describe the layers.

        Args:
            names: Names of the Linear layers, in the order of their outputs.
            lora_pairs: LoRA pairs by layer name, for layers that have one.
            dropout_probability: Dropout of LoRA's input in training; the fused layers share one
                mask.
        """
        self.names = names
        self._dropout_probability = dropout_probability
        self._pairs = [(name, lora_pairs[name]) for name in names if name in lora_pairs]
        self._rank_slices: dict[str, slice] = {}
        rank = 0
        for name, pair in self._pairs:
            self._rank_slices[name] = slice(rank, rank + pair.lora_a.shape[0])
            rank += pair.lora_a.shape[0]
        self.padded_rank = -(-rank // _RANK_MULTIPLE) * _RANK_MULTIPLE
        """Sum of the ranks, padded: columns that augment the input."""

    def augmented_weight(self, linears: dict[str, NF4Linear], dtype: torch.dtype) -> torch.Tensor:
        """Return ``[W | s B]`` dequantized, ``(out_features, in_features + padded_rank)``."""
        parts = [linears[name] for name in self.names]
        in_features = parts[0].in_features
        out_features = sum(part.out_features for part in parts)
        weight = torch.empty(
            out_features, in_features + self.padded_rank, dtype=dtype, device=parts[0].packed.device
        )
        if self.padded_rank:
            weight[:, in_features:].zero_()
        row = 0
        rows: dict[str, slice] = {}
        for name, part in zip(self.names, parts, strict=True):
            part.dequantize_into(weight[row : row + part.out_features, :in_features])
            rows[name] = slice(row, row + part.out_features)
            row += part.out_features
        for name, pair in self._pairs:
            scaled_b = weight[rows[name], in_features:][:, self._rank_slices[name]]
            torch.mul(pair.lora_b.detach(), pair.scaling, out=scaled_b)
        return weight

    def bias(self, linears: dict[str, NF4Linear]) -> torch.Tensor | None:
        """Return the concatenated bias, ``(out_features,)``, or None."""
        biases = [linears[name].bias for name in self.names]
        if biases[0] is None:
            return None
        return torch.cat([bias for bias in biases if bias is not None])

    def stacked_lora_a(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the A matrices stacked by rows, ``(padded_rank, in_features)``, in ``dtype``."""
        if not self.padded_rank:
            return torch.empty(0, 0, dtype=dtype)
        first = self._pairs[0][1].lora_a
        stacked = torch.empty(self.padded_rank, first.shape[1], dtype=dtype, device=first.device)
        row = 0
        for _, pair in self._pairs:
            stacked[row : row + pair.lora_a.shape[0]].copy_(pair.lora_a.detach())
            row += pair.lora_a.shape[0]
        stacked[row:].zero_()
        return stacked

    def lora_a_forward(
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        lora_a: torch.Tensor,
        seed: int | None,
        accumulate: bool = False,
    ) -> None:
        """Write ``dropout(x) Aᵀ`` into ``out``.

        Args:
            x: ``(n, in_features)``, or a slice of the features.
            out: ``(n, padded_rank)``, possibly strided.
            lora_a: :meth:`stacked_lora_a`, for those features.
            seed: Seed of the dropout; None for no dropout.
            accumulate: Add to ``out`` instead.
        """
        if not self.padded_rank:
            return
        for chunk, chunk_seed in self._dropout_chunks(x, seed):
            inputs = (
                x[chunk]
                if chunk_seed is None
                else dropout(x[chunk], self._dropout_probability, chunk_seed)
            )
            if accumulate:
                out[chunk].addmm_(inputs, lora_a.T)
            else:
                torch.mm(inputs, lora_a.T, out=out[chunk])

    def accumulate_lora_b_grad(
        self,
        grad_output: torch.Tensor,
        lora_hidden: torch.Tensor,
        slices: dict[str, tuple[slice, slice]],
    ) -> None:
        """Accumulate the gradients of B.

        Args:
            grad_output: Gradient of the outputs or of some of them, ``(n, …)``.
            lora_hidden: ``x Aᵀ``, ``(n, padded_rank)``.
            slices: By layer name, its columns of ``grad_output`` and the rows of B they are for.
        """
        for name, pair in self._pairs:
            columns, rows = slices[name]
            grad_b = grad_output[:, columns].T @ lora_hidden[:, self._rank_slices[name]]
            pair.grad_b[rows].add_(grad_b, alpha=pair.scaling)

    def lora_a_backward(
        self,
        x: torch.Tensor,
        grad_lora_hidden: torch.Tensor,
        grad_input: torch.Tensor,
        lora_a: torch.Tensor,
        seed: int | None,
        features: slice = slice(None),
    ) -> None:
        """Accumulate the gradients of A, and add that of ``x`` through A to ``grad_input``.

        Args:
            x: The input, or its slice ``features``, ``(n, …)``.
            grad_lora_hidden: Gradient of ``x Aᵀ``, ``(n, padded_rank)``.
            grad_input: Gradient of ``x``, accumulated.
            lora_a: :meth:`stacked_lora_a`, for those features.
            seed: As in :meth:`lora_a_forward`.
            features: Input features that ``x`` has.
        """
        if not self.padded_rank:
            return
        grad_a = torch.zeros(lora_a.shape, dtype=torch.float32, device=lora_a.device)
        for chunk, chunk_seed in self._dropout_chunks(x, seed):
            grad = grad_lora_hidden[chunk]
            if chunk_seed is None:
                grad_a.add_(grad.T @ x[chunk])
                grad_input[chunk].addmm_(grad, lora_a)
            else:
                grad_a.add_(grad.T @ dropout(x[chunk], self._dropout_probability, chunk_seed))
                dropout_backward(
                    grad @ lora_a, grad_input[chunk], self._dropout_probability, chunk_seed
                )
        for name, pair in self._pairs:
            pair.grad_a[:, features].add_(grad_a[self._rank_slices[name]])

    def _dropout_chunks(
        self, x: torch.Tensor, seed: int | None
    ) -> Iterator[tuple[slice, int | None]]:
        """Yield chunks of tokens, each with its own seed if there is dropout."""
        n_tokens = x.shape[0]
        if seed is None or not self._dropout_probability:
            yield slice(0, n_tokens), None
            return
        # Dropout copies its input, so inputs with many features are processed in shorter chunks.
        chunk_tokens = max(1, _DROPOUT_CHUNK_ELEMENTS // x.shape[1])
        for number, start in enumerate(range(0, n_tokens, chunk_tokens)):
            yield slice(start, start + chunk_tokens), seed + number
