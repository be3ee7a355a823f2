"""Vectors of added tokens in the layerwise engine: looked up, multiplied, and their gradients."""

from dataclasses import dataclass
from typing import Final

import torch

from the_block_llm.models.adapter.added_embeddings import AddedTokenEmbeddings, split_logits_grad

# Matrix products want rows of 16 bytes.
_WIDTH_MULTIPLE: Final = 8


@dataclass(frozen=True)
class AddedPlaces:
    """Where a micro-batch has added tokens, and which; on the device, both ``(found,)``."""

    positions: torch.Tensor
    rows: torch.Tensor


class AddedTokens:
    """The trained rows beside embedding and head.

    Gradients are collected in float32 whatever the parameters are, as those of LoRA are.
    """

    def __init__(self, rows: AddedTokenEmbeddings, vocabulary: int) -> None:
        """Compute with ``rows`` beside matrices of ``vocabulary`` rows."""
        self._rows = rows
        self._vocabulary = vocabulary

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Each trained matrix once."""
        return self._rows.parameters

    def places_in(self, ids: torch.Tensor) -> AddedPlaces:
        """Where ``ids``, ``(n,)`` on the host, are added tokens; they become token 0 there."""
        rows = ids - self._rows.first_id
        found = ((rows >= 0) & (rows < self._rows.n_tokens)).nonzero().squeeze(1)
        places = AddedPlaces(found, rows[found])
        ids[found] = 0
        return places

    def put(self, states: torch.Tensor, places: AddedPlaces) -> None:
        """Write the tokens' vectors into ``states``, ``(n, hidden)``."""
        vectors = self._rows.embedding.detach().to(states.dtype)
        states.index_copy_(0, places.positions, vectors.index_select(0, places.rows))

    def finish(self, slope: torch.Tensor, places: AddedPlaces, head_slope: torch.Tensor) -> None:
        """Add the gradients to the parameters', as autograd would.

        Args:
            slope: Of the first layer's input, ``(n, hidden)``.
            places: Of the micro-batch.
            head_slope: Of the head's rows, ``(tokens, hidden)``.
        """
        rows = self._rows
        total = head_slope if rows.head is rows.embedding else torch.zeros_like(head_slope)
        total.index_add_(0, places.rows, slope.index_select(0, places.positions).float())
        add_gradient(rows.embedding, total)
        if rows.head is not rows.embedding:
            add_gradient(rows.head, head_slope)

    def head_rows(self, dtype: torch.dtype) -> torch.Tensor:
        """The head's rows, ``(tokens, hidden)``."""
        return self._rows.head.detach().to(dtype)

    def no_head_slope(self) -> torch.Tensor:
        """Where :meth:`head_backward` adds up the gradient of the head's rows."""
        return torch.zeros_like(self._rows.head, dtype=torch.float32)

    def logits(self, normed: torch.Tensor, weight: torch.Tensor, first: int) -> torch.Tensor:
        """Logits of a part of the head and of the added tokens in it.

        Args:
            normed: ``(n, hidden)``.
            weight: Rows of the head from number ``first`` on.
            first: Number of the first.
        """
        here, there = self._within(first, weight.shape[0])
        width = max(weight.shape[0], here.stop)
        logits = normed.new_empty(normed.shape[0], -(-width // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE)
        torch.mm(normed, weight.T, out=logits[:, : weight.shape[0]])
        if there.stop > there.start:
            logits[:, here] = normed @ self.head_rows(normed.dtype)[there].T
        return logits[:, :width]

    def add_backward(
        self,
        into: torch.Tensor,
        slope: torch.Tensor,
        normed: torch.Tensor,
        weight: torch.Tensor,
        first: int,
        total: torch.Tensor,
    ) -> None:
        """Add the gradient of ``normed`` through :meth:`logits` to ``into``.

        That of the rows is added to ``total``, ``(tokens, hidden)``.
        """
        here, there = self._within(first, weight.shape[0])
        if there.stop == there.start:
            into.addmm_(slope, weight)
            return
        of_matrix, own = split_logits_grad(
            slope, weight.shape[0], here.start, here.stop - here.start
        )
        total[there].add_((own.T @ normed).float())
        into.addmm_(of_matrix, weight).addmm_(own, self.head_rows(normed.dtype)[there])

    def _within(self, first: int, n_rows: int) -> tuple[slice, slice]:
        """Columns of a part's logits that are added tokens', and which of them those are.

        Those beyond the matrix belong to its last part.
        """
        added = self._rows.first_id
        end = added + self._rows.n_tokens
        if first + n_rows < self._vocabulary:
            end = min(end, first + n_rows)
        start = min(max(added, first), end)
        return slice(start - first, end - first), slice(start - added, end - added)


def add_gradient(parameter: torch.nn.Parameter, slope: torch.Tensor) -> None:
    """Add ``slope`` to the gradient of ``parameter``."""
    if parameter.grad is None:
        parameter.grad = slope.to(parameter.dtype)
    else:
        parameter.grad.add_(slope)
