"""Frozen layers where there is room for them: on the GPU, or streamed from host memory."""

import logging
from collections.abc import Iterable, Iterator, Sequence

import torch

from the_block_llm.models.layerwise.offload.copy_stream import Moment, SideQueue
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout

_log = logging.getLogger(__name__)


def host_buffer(n_bytes: int) -> torch.Tensor:
    """Host memory that a GPU copies from while it computes; pageable where there is no more."""
    try:
        return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    except RuntimeError as error:
        _log.warning("No pinned memory for %.0f MiB (%s); copies will wait", n_bytes / 2**20, error)
        return torch.empty(n_bytes, dtype=torch.uint8)


def spread(n_layers: int, n_resident: int) -> frozenset[int]:
    """Which layers stay: evenly among the others, whose copies they hide.

    >>> sorted(spread(8, 3))
    [0, 2, 5]
    """
    return frozenset(index * n_layers // n_resident for index in range(n_resident))


class LayerStore:
    """Hands out the layers one after the other, the next one travelling meanwhile."""

    def __init__(self, layout: LayerLayout, device: torch.device, n_resident: int) -> None:
        """Make an empty store.

        Args:
            layout: Of every layer's buffer.
            device: Where layers compute.
            n_resident: How many stay there; the others share two buffers.
        """
        self.layout = layout
        self.device = device
        n_layers = layout.shape.n_layers
        streams = n_resident < n_layers
        self._resident = spread(n_layers, n_resident) if streams else frozenset(range(n_layers))
        self._buffers: list[torch.Tensor] = []
        self._conveyor = _Conveyor(layout.n_bytes, device) if streams else None

    def add(self, buffer: torch.Tensor) -> None:
        """Take the next layer's buffer."""
        if len(self._buffers) in self._resident:
            self._buffers.append(buffer.to(self.device))
            return
        kept = host_buffer(buffer.numel())
        kept.copy_(buffer)
        self._buffers.append(kept)

    def walk(self, order: Iterable[int]) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """Yield layers in the given order, as tensors on the device.

        A layer's tensors are valid until the next one is asked for.
        """
        indices = list(order)
        for position, index in enumerate(indices):
            if self._conveyor is None:
                yield index, self.layout.views(self._buffers[index])
                continue
            resident = index in self._resident
            slot = None if resident else self._conveyor.bring(index, self._buffers[index])
            coming = self._next_streamed(indices[position + 1 :])
            if coming is not None:
                self._conveyor.bring(coming, self._buffers[coming], keep=slot)
            if slot is None:
                yield index, self.layout.views(self._buffers[index])
            else:
                yield index, self.layout.views(self._conveyor.receive(slot))
                self._conveyor.release(slot)

    def _next_streamed(self, indices: Sequence[int]) -> int | None:
        return next((index for index in indices if index not in self._resident), None)


class _Conveyor:
    """Two buffers on the device: one in use, the other being filled."""

    def __init__(self, n_bytes: int, device: torch.device) -> None:
        self._slots = [torch.empty(n_bytes, dtype=torch.uint8, device=device) for _ in range(2)]
        self._holds: list[int | None] = [None, None]
        self._arrived = [Moment(device), Moment(device)]
        self._used = [Moment(device), Moment(device)]
        self._queue = SideQueue(device)
        self._older = 0

    def bring(self, layer: int, source: torch.Tensor, keep: int | None = None) -> int:
        """Start copying a layer into the slot that is not ``keep``, unless it is there.

        Returns:
            The slot.
        """
        if layer in self._holds:
            return self._holds.index(layer)
        slot = self._older if keep is None else 1 - keep
        with self._queue.beside():
            self._used[slot].wait()
            self._slots[slot].copy_(source, non_blocking=True)
            self._arrived[slot].mark()
        self._holds[slot] = layer
        self._older = 1 - slot
        return slot

    def receive(self, slot: int) -> torch.Tensor:
        """The slot's buffer, once its copy has arrived."""
        self._arrived[slot].wait()
        return self._slots[slot]

    def release(self, slot: int) -> None:
        """Let the slot be filled again after what has been computed with it so far."""
        self._used[slot].mark()
