"""Stores the layers' inputs for the backward pass: on the device, in host memory or on disk."""

import tempfile
from pathlib import Path
from typing import Literal

import torch

from the_block_llm.models.layerwise.offload.copy_stream import CopyStream, CudaEvent
from the_block_llm.models.layerwise.offload.weight_streaming import allocate_host_buffer

Placement = Literal["device", "host", "disk"]


class ActivationStore:
    """Stores one hidden state per layer; copies overlap with computation.

    Host buffers are reused by later micro-batches.
    """

    def __init__(
        self, placement: Placement, device: torch.device, disk_folder: Path | None = None
    ) -> None:
        """Create an empty store.

        Args:
            placement: ``device`` needs no copies; ``host`` takes pinned memory of the states'
                size; ``disk`` takes files of that size, for machines with too little of both.
            device: Where the states are computed.
            disk_folder: Parent of the temporary folder for ``disk``; None for the system's.
        """
        self._placement = placement
        self._device = device
        self._saved: dict[int, torch.Tensor] = {}
        self._buffers: dict[int, torch.Tensor] = {}
        self._copy_stream = CopyStream(device)
        self._in_flight: dict[int, tuple[torch.Tensor, CudaEvent]] = {}
        self._folder = (
            tempfile.TemporaryDirectory(prefix="block-activations-", dir=disk_folder)
            if self._placement == "disk"
            else None
        )

    def save(self, index: int, state: torch.Tensor) -> None:
        """Save the input of layer ``index``; it must not be overwritten afterwards."""
        if self._placement == "device":
            self._saved[index] = state
            return
        host_state = self._host_view(index, state)
        self._copy_stream.wait_for_compute()
        with self._copy_stream.activate():
            host_state.copy_(state, non_blocking=True)
        self._copy_stream.record_use(state)
        self._saved[index] = host_state

    def prefetch(self, index: int) -> None:
        """Start copying the input of layer ``index`` to the device."""
        if self._placement == "device" or index in self._in_flight or index not in self._saved:
            return
        host_state = self._saved[index]
        device_state = torch.empty_like(host_state, device=self._device, pin_memory=False)
        copied = CudaEvent(self._device)
        self._copy_stream.wait_for_compute()
        with self._copy_stream.activate():
            device_state.copy_(host_state, non_blocking=True)
            copied.record()
        self._in_flight[index] = device_state, copied

    def fetch(self, index: int, writable: bool) -> torch.Tensor:
        """Return the input of layer ``index`` on the device; a copy if it must be ``writable``."""
        if self._placement == "device":
            state = self._saved[index]
            return state.clone() if writable else state
        self.prefetch(index)
        device_state, copied = self._in_flight.pop(index)
        copied.wait()
        return device_state

    def free(self, index: int) -> None:
        """Free the input of layer ``index``."""
        self._saved.pop(index, None)

    def _host_view(self, index: int, state: torch.Tensor) -> torch.Tensor:
        """Return a view of the layer's host buffer with the shape and dtype of ``state``."""
        n_bytes = state.numel() * state.element_size()
        buffer = self._buffers.get(index)
        if buffer is None or buffer.numel() < n_bytes:
            self._buffers.pop(index, None)
            buffer = self._buffers[index] = self._allocate_buffer(index, n_bytes)
        return buffer[:n_bytes].view(state.dtype).view(state.shape)

    def _allocate_buffer(self, index: int, n_bytes: int) -> torch.Tensor:
        if self._folder is None:
            return allocate_host_buffer(n_bytes)
        file = Path(self._folder.name) / f"{index}.state"
        return torch.from_file(str(file), shared=True, size=n_bytes, dtype=torch.uint8)
