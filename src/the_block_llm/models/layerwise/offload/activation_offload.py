"""The layers' inputs between the passes: on the device, in host memory, or in a file."""

import logging
import tempfile
from pathlib import Path
from typing import Literal

import torch

from the_block_llm.models.layerwise.offload.copy_stream import Moment, SideQueue
from the_block_llm.models.layerwise.offload.weight_streaming import host_buffer

_log = logging.getLogger(__name__)
Placement = Literal["device", "host", "disk"]


class ActivationStore:
    """Keeps one hidden state a layer; copies run beside the computation.

    Host memory, once taken, is used again by the next micro-batch.
    """

    def __init__(
        self, placement: Placement, device: torch.device, disk_folder: Path | None = None
    ) -> None:
        """Make an empty store.

        Args:
            placement: ``device`` costs no copies; ``host`` 2 bytes a number of pinned memory;
                ``disk`` is for machines that have neither.
            device: Where the states are computed.
            disk_folder: Where the file of ``disk`` lies; by default the system's folder for
                temporary files.
        """
        self._placement = placement
        self._device = device
        self._kept: dict[int, torch.Tensor] = {}
        self._buffers: dict[int, torch.Tensor] = {}
        self._queue = SideQueue(device)
        self._coming: dict[int, tuple[torch.Tensor, Moment]] = {}
        self._folder = (
            tempfile.TemporaryDirectory(prefix="block-activations-", dir=disk_folder)
            if self._placement == "disk"
            else None
        )

    def put(self, index: int, state: torch.Tensor) -> None:
        """Keep ``state`` of layer ``index``; it must not be overwritten afterwards."""
        if self._placement == "device":
            self._kept[index] = state
            return
        place = self._place(index, state)
        self._queue.let_computation_finish()
        with self._queue.beside():
            place.copy_(state, non_blocking=True)
        self._queue.hold(state)
        self._kept[index] = place

    def prefetch(self, index: int) -> None:
        """Start bringing the state of layer ``index`` back."""
        if self._placement == "device" or index in self._coming or index not in self._kept:
            return
        place = self._kept[index]
        target = torch.empty_like(place, device=self._device, pin_memory=False)
        arrived = Moment(self._device)
        self._queue.let_computation_finish()
        with self._queue.beside():
            target.copy_(place, non_blocking=True)
            arrived.mark()
        self._coming[index] = target, arrived

    def fetch(self, index: int, private: bool) -> torch.Tensor:
        """The state of layer ``index`` on the device; ``private`` where it is overwritten."""
        if self._placement == "device":
            state = self._kept[index]
            return state.clone() if private else state
        self.prefetch(index)
        target, arrived = self._coming.pop(index)
        arrived.wait()
        return target

    def drop(self, index: int) -> None:
        """Forget the state of layer ``index``."""
        self._kept.pop(index, None)

    def _place(self, index: int, state: torch.Tensor) -> torch.Tensor:
        n_bytes = state.numel() * state.element_size()
        buffer = self._buffers.get(index)
        if buffer is None or buffer.numel() < n_bytes:
            self._buffers.pop(index, None)
            buffer = self._buffers[index] = self._new_buffer(index, n_bytes)
        return buffer[:n_bytes].view(state.dtype).view(state.shape)

    def _new_buffer(self, index: int, n_bytes: int) -> torch.Tensor:
        if self._folder is None:
            return host_buffer(n_bytes)
        file = Path(self._folder.name) / f"{index}.state"
        return torch.from_file(str(file), shared=True, size=n_bytes, dtype=torch.uint8)
