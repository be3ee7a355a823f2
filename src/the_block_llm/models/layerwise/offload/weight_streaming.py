"""Frozen layers, resident on the GPU or streamed to it from host memory."""

import logging
from collections.abc import Iterable, Iterator, Sequence

import torch

from the_block_llm.models.layerwise.offload.copy_stream import CopyStream, CudaEvent
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout

_log = logging.getLogger(__name__)


def allocate_host_buffer(n_bytes: int) -> torch.Tensor:
    """Allocate pinned host memory, which a GPU copies asynchronously; pageable if that fails."""
    try:
        return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    except RuntimeError as error:
        _log.warning(
            "Cannot pin %.0f MiB of host memory (%s); copies will be synchronous",
            n_bytes / 2**20, error,
        )  # fmt: skip
        return torch.empty(n_bytes, dtype=torch.uint8)


def evenly_spaced(n_layers: int, n_resident: int) -> frozenset[int]:
    """Choose the resident layers: evenly spaced, so that they hide the copies of the others.

    >>> sorted(evenly_spaced(8, 3))
    [0, 2, 5]
    """
    return frozenset(index * n_layers // n_resident for index in range(n_resident))


class WeightStreamer:
    """Yields the layers' weights on the device, copying the next layer while one computes."""

    def __init__(self, layout: LayerLayout, device: torch.device, n_resident: int) -> None:
        """Create an empty streamer.

        Args:
            layout: Layout of every layer's buffer.
            device: Where layers compute.
            n_resident: Layers that stay on the device; the others share two buffers.
        """
        self.layout = layout
        self.device = device
        n_layers = layout.shape.n_layers
        is_streamed = n_resident < n_layers
        self._resident = (
            evenly_spaced(n_layers, n_resident) if is_streamed else frozenset(range(n_layers))
        )
        self._layers: list[torch.Tensor] = []
        self._double_buffer = _DoubleBuffer(layout.n_bytes, device) if is_streamed else None

    def add_layer(self, buffer: torch.Tensor) -> None:
        """Append the next layer's buffer."""
        if len(self._layers) in self._resident:
            self._layers.append(buffer.to(self.device))
            return
        host_copy = allocate_host_buffer(buffer.numel())
        host_copy.copy_(buffer)
        self._layers.append(host_copy)

    def iterate(self, order: Iterable[int]) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """Yield layers in the given order, as index and tensors on the device.

        A layer's tensors are valid until the next layer is requested.
        """
        indices = list(order)
        for position, index in enumerate(indices):
            if self._double_buffer is None:
                yield index, self.layout.views(self._layers[index])
                continue
            is_resident = index in self._resident
            slot = None if is_resident else self._double_buffer.prefetch(index, self._layers[index])
            upcoming = self._next_streamed(indices[position + 1 :])
            if upcoming is not None:
                self._double_buffer.prefetch(upcoming, self._layers[upcoming], in_use=slot)
            if slot is None:
                yield index, self.layout.views(self._layers[index])
            else:
                yield index, self.layout.views(self._double_buffer.wait(slot))
                self._double_buffer.release(slot)

    def _next_streamed(self, indices: Sequence[int]) -> int | None:
        return next((index for index in indices if index not in self._resident), None)


class _DoubleBuffer:
    """Two device buffers: one in use while the other is filled."""

    def __init__(self, n_bytes: int, device: torch.device) -> None:
        self._buffers = [torch.empty(n_bytes, dtype=torch.uint8, device=device) for _ in range(2)]
        self._layers: list[int | None] = [None, None]
        self._copied = [CudaEvent(device), CudaEvent(device)]
        self._released = [CudaEvent(device), CudaEvent(device)]
        self._copy_stream = CopyStream(device)
        self._older_slot = 0

    def prefetch(self, layer: int, source: torch.Tensor, in_use: int | None = None) -> int:
        """Start copying ``layer`` unless it is loaded, into a slot other than ``in_use``.

        Returns:
            The slot.
        """
        if layer in self._layers:
            return self._layers.index(layer)
        slot = self._older_slot if in_use is None else 1 - in_use
        with self._copy_stream.activate():
            self._released[slot].wait()
            self._buffers[slot].copy_(source, non_blocking=True)
            self._copied[slot].record()
        self._layers[slot] = layer
        self._older_slot = 1 - slot
        return slot

    def wait(self, slot: int) -> torch.Tensor:
        """Make the current stream wait for the copy into ``slot``; return the slot's buffer."""
        self._copied[slot].wait()
        return self._buffers[slot]

    def release(self, slot: int) -> None:
        """Allow overwriting ``slot`` after the work submitted to the current stream so far."""
        self._released[slot].record()
