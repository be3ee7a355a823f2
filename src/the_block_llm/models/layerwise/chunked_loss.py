"""The loss from the last hidden states, over the positions that count alone."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch

from the_block_llm.models.layerwise.added_tokens import AddedTokens
from the_block_llm.models.layerwise.kernels import fused
from the_block_llm.models.layerwise.kernels.norms import Norm
from the_block_llm.models.layerwise.offload.copy_stream import Moment, SideQueue
from the_block_llm.models.layerwise.offload.weight_streaming import host_buffer

# Rows of the head that visit the device together where it lives in host memory.
TILE_ROWS: Final = 16_384


class HeadLoss(NamedTuple):
    """A loss, and its gradients where they were asked for."""

    total: torch.Tensor
    """Sum of the cross-entropies, a float32 scalar."""
    states: torch.Tensor | None
    """``(n, hidden)``, of the states before the last norm."""
    added_rows: torch.Tensor | None
    """float32, ``(tokens, hidden)``, of the head's rows of added tokens, if there are any."""


class VocabularyHead:
    """The frozen output matrix, on the device or visiting it tile by tile."""

    def __init__(
        self,
        weight: torch.Tensor,
        device: torch.device,
        resident: bool,
        added: AddedTokens | None = None,
    ) -> None:
        """Place the head.

        Args:
            weight: ``(vocabulary, hidden)``, in host memory.
            device: Where the loss is computed.
            resident: Whether the head stays there.
            added: Trained rows beside it.
        """
        self._device = device
        self._added = added
        self._in_tiles = not resident
        self.weight = weight if self._in_tiles else weight.to(device)
        self._queue = SideQueue(device)

    def loss(
        self,
        states: torch.Tensor,
        positions: torch.Tensor,
        targets: torch.Tensor,
        norm: Norm,
        chunk: int,
        with_slope: bool,
    ) -> HeadLoss:
        """Sum of cross-entropies of the targets, and its gradients.

        Args:
            states: Before the last norm, ``(n, hidden)``.
            positions: Of the states that predict something, ``(n_targets,)``.
            targets: What they predict.
            norm: The last norm.
            chunk: Positions whose logits exist together.
            with_slope: Whether gradients are wanted.
        """
        own = self._added.no_head_slope() if self._added and with_slope else None
        if self._in_tiles:
            total, gradient = self._loss_in_tiles(
                states, positions, targets, norm, chunk, with_slope, own
            )
            return HeadLoss(total, gradient, own)
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        gradient = torch.zeros_like(states) if with_slope else None
        for start in range(0, positions.shape[0], chunk):
            part = slice(start, start + chunk)
            rows = states.index_select(0, positions[part])
            normed = torch.empty_like(rows)
            norm.write(rows, normed)
            logits = self._logits(normed, self.weight, 0)
            total += fused.cross_entropy_rows(logits, targets[part], with_slope).sum()
            if gradient is not None:
                normed_slope = torch.zeros_like(rows)
                self._add_backward(normed_slope, logits, normed, self.weight, 0, own)
                slope = torch.zeros_like(rows)
                norm.add_backward(rows, normed_slope, slope)
                gradient.index_copy_(0, positions[part], slope)
        return HeadLoss(total, gradient, own)

    def logits(self, normed: torch.Tensor) -> torch.Tensor:
        """Logits of a few normed states, ``(n, vocabulary)`` and those of added tokens."""
        return torch.cat(
            [self._logits(normed, tile, first) for first, tile in self._tiles()], dim=1
        )

    def _logits(self, normed: torch.Tensor, tile: torch.Tensor, first: int) -> torch.Tensor:
        if self._added is None:
            return normed @ tile.T
        return self._added.logits(normed, tile, first)

    def _add_backward(
        self,
        into: torch.Tensor,
        slope: torch.Tensor,
        normed: torch.Tensor,
        tile: torch.Tensor,
        first: int,
        own: torch.Tensor | None,
    ) -> None:
        if self._added is None or own is None:
            into.addmm_(slope, tile)
        else:
            self._added.add_backward(into, slope, normed, tile, first, own)

    def _loss_in_tiles(
        self,
        states: torch.Tensor,
        positions: torch.Tensor,
        targets: torch.Tensor,
        norm: Norm,
        chunk: int,
        with_slope: bool,
        own: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        n_targets = positions.shape[0]
        normed = states.new_empty(n_targets, states.shape[1])
        for part in _parts(n_targets, chunk):
            norm.write(states.index_select(0, positions[part]), normed[part])
        log_total = normed.new_full((n_targets,), float("-inf"), dtype=torch.float32)
        at_target = torch.zeros_like(log_total)
        for first, tile in self._tiles():
            for part in _parts(n_targets, chunk):
                logits = self._logits(normed[part], tile, first).float()
                index, inside = _within(targets[part], first, logits.shape[1])
                at_target[part] += logits.gather(1, index).squeeze(1) * inside
                log_total[part] = torch.logaddexp(log_total[part], logits.logsumexp(dim=1))
        total = (log_total - at_target).sum()
        if not with_slope:
            return total, None
        normed_slope = torch.zeros_like(normed)
        for first, tile in self._tiles():
            for part in _parts(n_targets, chunk):
                slope = self._logits(normed[part], tile, first).float()
                slope.sub_(log_total[part].unsqueeze(1)).exp_()
                index, inside = _within(targets[part], first, slope.shape[1])
                slope.scatter_add_(1, index, -inside.unsqueeze(1).float())
                slope = slope.to(tile.dtype)
                self._add_backward(normed_slope[part], slope, normed[part], tile, first, own)
        del normed
        gradient = torch.zeros_like(states)
        for part in _parts(n_targets, chunk):
            rows = states.index_select(0, positions[part])
            slope = torch.zeros_like(rows)
            norm.add_backward(rows, normed_slope[part], slope)
            gradient.index_copy_(0, positions[part], slope)
        return total, gradient

    def _tiles(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The head's rows, a tile at a time, the next one travelling meanwhile."""
        if not self._in_tiles:
            yield 0, self.weight
            return
        parts = list(_parts(self.weight.shape[0], TILE_ROWS))
        slots = [
            torch.empty(min(TILE_ROWS, self.weight.shape[0]), self.weight.shape[1],
                        dtype=self.weight.dtype, device=self._device)
            for _ in range(2)
        ]  # fmt: skip
        arrived = [Moment(self._device), Moment(self._device)]

        def send(number: int) -> None:
            part, slot = parts[number], slots[number % 2]
            self._queue.let_computation_finish()
            with self._queue.beside():
                slot[: part.stop - part.start].copy_(self.weight[part], non_blocking=True)
                arrived[number % 2].mark()

        send(0)
        for number, part in enumerate(parts):
            if number + 1 < len(parts):
                send(number + 1)
            arrived[number % 2].wait()
            yield part.start, slots[number % 2][: part.stop - part.start]
        for slot in slots:
            self._queue.hold(slot)


def pinned(weight: torch.Tensor) -> torch.Tensor:
    """A copy of ``weight`` in pinned host memory, where there is a GPU to read it."""
    buffer = host_buffer(weight.numel() * weight.element_size())
    kept = buffer.view(weight.dtype).view(weight.shape)
    return kept.copy_(weight)


def _parts(n_items: int, size: int) -> Iterator[slice]:
    for start in range(0, n_items, size):
        yield slice(start, min(n_items, start + size))


def _within(targets: torch.Tensor, first: int, n_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each target's index within a tile, and whether it is in it."""
    index = targets - first
    inside = (index >= 0) & (index < n_rows)
    return index.clamp(0, n_rows - 1).unsqueeze(1), inside
