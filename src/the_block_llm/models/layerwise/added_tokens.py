"""Trained vectors of added tokens in the engine: lookup, logits and gradients."""

from dataclasses import dataclass
from typing import Final

import torch

from the_block_llm.models.adapter.added_embeddings import AddedTokenEmbeddings, split_logits_grad

# Rows of matrix products are aligned to 16 bytes.
_COLUMN_MULTIPLE: Final = 8


@dataclass(frozen=True)
class AddedTokenPositions:
    """Where a micro-batch has added tokens; both tensors ``(n_found,)``, on the device."""

    positions: torch.Tensor
    rows: torch.Tensor
    """Index of each token among the added ones."""


class AddedTokens:
    """The trained rows beside the frozen embedding and LM head.

    Gradients are accumulated in float32 whatever the dtype of the parameters, as those of LoRA.
    """

    def __init__(self, embeddings: AddedTokenEmbeddings, vocab_size: int) -> None:
        """Use ``embeddings`` beside matrices of ``vocab_size`` rows."""
        self._embeddings = embeddings
        self._vocab_size = vocab_size

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Each trained matrix once."""
        return self._embeddings.parameters

    def extract_positions(self, ids: torch.Tensor) -> AddedTokenPositions:
        """Find the added tokens in ``ids``, ``(n,)`` on the host, and overwrite them with 0."""
        rows = ids - self._embeddings.first_id
        positions = ((rows >= 0) & (rows < self._embeddings.n_tokens)).nonzero().squeeze(1)
        found = AddedTokenPositions(positions, rows[positions])
        ids[positions] = 0
        return found

    def write_embeddings(self, hidden_states: torch.Tensor, found: AddedTokenPositions) -> None:
        """Write the tokens' vectors into ``hidden_states``, ``(n, hidden_size)``."""
        vectors = self._embeddings.embedding.detach().to(hidden_states.dtype)
        hidden_states.index_copy_(0, found.positions, vectors.index_select(0, found.rows))

    def accumulate_grads(
        self, grad_input: torch.Tensor, found: AddedTokenPositions, grad_head: torch.Tensor
    ) -> None:
        """Add to the gradients of the parameters, as autograd would.

        Args:
            grad_input: Gradient of the first layer's input, ``(n, hidden_size)``.
            found: Added tokens of the micro-batch.
            grad_head: Gradient of the head's rows, ``(n_added_tokens, hidden_size)``.
        """
        embeddings = self._embeddings
        is_tied = embeddings.head is embeddings.embedding
        grad_embedding = grad_head if is_tied else torch.zeros_like(grad_head)
        grad_embedding.index_add_(
            0, found.rows, grad_input.index_select(0, found.positions).float()
        )
        _accumulate_grad(embeddings.embedding, grad_embedding)
        if not is_tied:
            _accumulate_grad(embeddings.head, grad_head)

    def head_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the head's rows, ``(n_added_tokens, hidden_size)``."""
        return self._embeddings.head.detach().to(dtype)

    def zero_head_grad(self) -> torch.Tensor:
        """Return a float32 buffer for the gradient of the head's rows."""
        return torch.zeros_like(self._embeddings.head, dtype=torch.float32)

    def logits(self, normed: torch.Tensor, weight: torch.Tensor, first_row: int) -> torch.Tensor:
        """Return the logits of a tile of the LM head, added tokens included.

        Args:
            normed: ``(n, hidden_size)``.
            weight: Rows of the LM head from ``first_row`` on.
            first_row: Index of the tile's first row.
        """
        columns, rows = self._added_columns(first_row, weight.shape[0])
        n_columns = max(weight.shape[0], columns.stop)
        padded_columns = -(-n_columns // _COLUMN_MULTIPLE) * _COLUMN_MULTIPLE
        logits = normed.new_empty(normed.shape[0], padded_columns)
        torch.mm(normed, weight.T, out=logits[:, : weight.shape[0]])
        if rows.stop > rows.start:
            logits[:, columns] = normed @ self.head_weight(normed.dtype)[rows].T
        return logits[:, :n_columns]

    def accumulate_logits_grad(
        self,
        grad_normed: torch.Tensor,
        grad_logits: torch.Tensor,
        normed: torch.Tensor,
        weight: torch.Tensor,
        first_row: int,
        grad_head: torch.Tensor,
    ) -> None:
        """Backpropagate through :meth:`logits`.

        Adds the gradient of ``normed`` to ``grad_normed`` and that of the head's rows to
        ``grad_head``, ``(n_added_tokens, hidden_size)``.
        """
        columns, rows = self._added_columns(first_row, weight.shape[0])
        if rows.stop == rows.start:
            grad_normed.addmm_(grad_logits, weight)
            return
        grad_frozen, grad_added = split_logits_grad(
            grad_logits, weight.shape[0], columns.start, columns.stop - columns.start
        )
        grad_head[rows].add_((grad_added.T @ normed).float())
        grad_normed.addmm_(grad_frozen, weight).addmm_(
            grad_added, self.head_weight(normed.dtype)[rows]
        )

    def _added_columns(self, first_row: int, n_rows: int) -> tuple[slice, slice]:
        """Return the columns of added tokens in a tile's logits, and which tokens they are.

        Tokens beyond the matrix belong to its last tile.
        """
        first_id = self._embeddings.first_id
        end = first_id + self._embeddings.n_tokens
        if first_row + n_rows < self._vocab_size:
            end = min(end, first_row + n_rows)
        start = min(max(first_id, first_row), end)
        columns = slice(start - first_row, end - first_row)
        return columns, slice(start - first_id, end - first_id)


def _accumulate_grad(parameter: torch.nn.Parameter, grad: torch.Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = grad.to(parameter.dtype)
    else:
        parameter.grad.add_(grad)
