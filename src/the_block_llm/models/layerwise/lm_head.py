"""Cross-entropy from the last hidden states, without the logits of all positions at once."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch

from the_block_llm.models.layerwise.added_tokens import AddedTokens
from the_block_llm.models.layerwise.kernels.cross_entropy import cross_entropy
from the_block_llm.models.layerwise.kernels.norm import Norm
from the_block_llm.models.layerwise.offload.copy_stream import CopyStream, CudaEvent
from the_block_llm.models.layerwise.offload.weight_streaming import allocate_host_buffer

# Rows of an LM head in host memory that are copied to the device together.
VOCAB_TILE_ROWS: Final = 16_384


class LossAndGrads(NamedTuple):
    """A loss, and its gradients if they were requested."""

    loss: torch.Tensor
    """Sum of the cross-entropies, a float32 scalar."""
    grad_hidden: torch.Tensor | None
    """``(n, hidden_size)``, of the hidden states before the final norm."""
    grad_added_head: torch.Tensor | None
    """float32, ``(n_added_tokens, hidden_size)``, of the head's rows of added tokens."""


class LMHead:
    """The frozen output matrix, resident on the device or copied to it in tiles."""

    def __init__(
        self,
        weight: torch.Tensor,
        device: torch.device,
        is_resident: bool,
        added_tokens: AddedTokens | None = None,
    ) -> None:
        """Place the matrix.

        Args:
            weight: ``(vocab_size, hidden_size)``, in host memory.
            device: Where the loss is computed.
            is_resident: Whether the matrix stays on the device.
            added_tokens: Trained rows beside the matrix.
        """
        self._device = device
        self._added_tokens = added_tokens
        self._is_tiled = not is_resident
        self.weight = weight if self._is_tiled else weight.to(device)
        self._copy_stream = CopyStream(device)

    def loss(
        self,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        targets: torch.Tensor,
        norm: Norm,
        chunk_tokens: int,
        with_grad: bool,
    ) -> LossAndGrads:
        """Return the sum of the targets' cross-entropies, and its gradients.

        Args:
            hidden_states: Before the final norm, ``(n, hidden_size)``.
            positions: Indices of the states that predict a target, ``(n_targets,)``.
            targets: Token ids, ``(n_targets,)``.
            norm: The final norm.
            chunk_tokens: Positions whose logits are in memory together.
            with_grad: Whether to compute gradients.
        """
        grad_added = (
            self._added_tokens.zero_head_grad() if self._added_tokens and with_grad else None
        )
        if self._is_tiled:
            loss, grad_hidden = self._tiled_loss(
                hidden_states, positions, targets, norm, chunk_tokens, with_grad, grad_added
            )
            return LossAndGrads(loss, grad_hidden, grad_added)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_states.device)
        grad_hidden = torch.zeros_like(hidden_states) if with_grad else None
        for start in range(0, positions.shape[0], chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            states = hidden_states.index_select(0, positions[chunk])
            normed = torch.empty_like(states)
            norm.forward(states, normed)
            logits = self._tile_logits(normed, self.weight, 0)
            loss += cross_entropy(logits, targets[chunk], with_grad).sum()
            if grad_hidden is not None:
                grad_normed = torch.zeros_like(states)
                self._accumulate_logits_grad(
                    grad_normed, logits, normed, self.weight, 0, grad_added
                )
                grad_states = torch.zeros_like(states)
                norm.accumulate_grad(states, grad_normed, grad_states)
                grad_hidden.index_copy_(0, positions[chunk], grad_states)
        return LossAndGrads(loss, grad_hidden, grad_added)

    def logits(self, normed: torch.Tensor) -> torch.Tensor:
        """Return the logits of normed states, ``(n, vocab_size)`` and those of added tokens."""
        return torch.cat(
            [
                self._tile_logits(normed, tile, first_row)
                for first_row, tile in self._weight_tiles()
            ],
            dim=1,
        )

    def _tile_logits(
        self, normed: torch.Tensor, tile: torch.Tensor, first_row: int
    ) -> torch.Tensor:
        if self._added_tokens is None:
            return normed @ tile.T
        return self._added_tokens.logits(normed, tile, first_row)

    def _accumulate_logits_grad(
        self,
        grad_normed: torch.Tensor,
        grad_logits: torch.Tensor,
        normed: torch.Tensor,
        tile: torch.Tensor,
        first_row: int,
        grad_added: torch.Tensor | None,
    ) -> None:
        if self._added_tokens is None or grad_added is None:
            grad_normed.addmm_(grad_logits, tile)
        else:
            self._added_tokens.accumulate_logits_grad(
                grad_normed, grad_logits, normed, tile, first_row, grad_added
            )

    def _tiled_loss(
        self,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        targets: torch.Tensor,
        norm: Norm,
        chunk_tokens: int,
        with_grad: bool,
        grad_added: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the loss in two passes over the vocabulary tiles: logsumexp, then gradients."""
        n_targets = positions.shape[0]
        normed = hidden_states.new_empty(n_targets, hidden_states.shape[1])
        for chunk in _chunks(n_targets, chunk_tokens):
            norm.forward(hidden_states.index_select(0, positions[chunk]), normed[chunk])
        logsumexp = normed.new_full((n_targets,), float("-inf"), dtype=torch.float32)
        target_logits = torch.zeros_like(logsumexp)
        for first_row, tile in self._weight_tiles():
            for chunk in _chunks(n_targets, chunk_tokens):
                logits = self._tile_logits(normed[chunk], tile, first_row).float()
                index, is_in_tile = _tile_index(targets[chunk], first_row, logits.shape[1])
                target_logits[chunk] += logits.gather(1, index).squeeze(1) * is_in_tile
                logsumexp[chunk] = torch.logaddexp(logsumexp[chunk], logits.logsumexp(dim=1))
        loss = (logsumexp - target_logits).sum()
        if not with_grad:
            return loss, None
        grad_normed = torch.zeros_like(normed)
        for first_row, tile in self._weight_tiles():
            for chunk in _chunks(n_targets, chunk_tokens):
                grad_logits = self._tile_logits(normed[chunk], tile, first_row).float()
                grad_logits.sub_(logsumexp[chunk].unsqueeze(1)).exp_()
                index, is_in_tile = _tile_index(targets[chunk], first_row, grad_logits.shape[1])
                grad_logits.scatter_add_(1, index, -is_in_tile.unsqueeze(1).float())
                grad_logits = grad_logits.to(tile.dtype)
                self._accumulate_logits_grad(
                    grad_normed[chunk], grad_logits, normed[chunk], tile, first_row, grad_added
                )
        del normed
        grad_hidden = torch.zeros_like(hidden_states)
        for chunk in _chunks(n_targets, chunk_tokens):
            states = hidden_states.index_select(0, positions[chunk])
            grad_states = torch.zeros_like(states)
            norm.accumulate_grad(states, grad_normed[chunk], grad_states)
            grad_hidden.index_copy_(0, positions[chunk], grad_states)
        return loss, grad_hidden

    def _weight_tiles(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the matrix in tiles with their first rows, copying the next one concurrently."""
        if not self._is_tiled:
            yield 0, self.weight
            return
        tiles = list(_chunks(self.weight.shape[0], VOCAB_TILE_ROWS))
        buffers = [
            torch.empty(min(VOCAB_TILE_ROWS, self.weight.shape[0]), self.weight.shape[1],
                        dtype=self.weight.dtype, device=self._device)
            for _ in range(2)
        ]  # fmt: skip
        copied = [CudaEvent(self._device), CudaEvent(self._device)]

        def start_copy(index: int) -> None:
            rows, buffer = tiles[index], buffers[index % 2]
            self._copy_stream.wait_for_compute()
            with self._copy_stream.activate():
                buffer[: rows.stop - rows.start].copy_(self.weight[rows], non_blocking=True)
                copied[index % 2].record()

        start_copy(0)
        for index, rows in enumerate(tiles):
            if index + 1 < len(tiles):
                start_copy(index + 1)
            copied[index % 2].wait()
            yield rows.start, buffers[index % 2][: rows.stop - rows.start]
        for buffer in buffers:
            self._copy_stream.record_use(buffer)


def pinned_copy(weight: torch.Tensor) -> torch.Tensor:
    """Return a copy of ``weight`` in pinned host memory, or in pageable if pinning fails."""
    buffer = allocate_host_buffer(weight.numel() * weight.element_size())
    copy = buffer.view(weight.dtype).view(weight.shape)
    return copy.copy_(weight)


def _chunks(n_items: int, chunk_size: int) -> Iterator[slice]:
    for start in range(0, n_items, chunk_size):
        yield slice(start, min(n_items, start + chunk_size))


def _tile_index(
    targets: torch.Tensor, first_row: int, n_rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each target's index in a tile, clamped, and whether the target is in the tile."""
    index = targets - first_row
    is_in_tile = (index >= 0) & (index < n_rows)
    return index.clamp(0, n_rows - 1).unsqueeze(1), is_in_tile
