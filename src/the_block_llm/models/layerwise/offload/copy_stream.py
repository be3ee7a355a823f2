"""A queue of copies beside the computation. A CPU has none: there everything happens in order."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Moment:
    """A point in a queue that another can wait for."""

    def __init__(self, device: torch.device) -> None:
        """A point that has passed already."""
        self._event = torch.cuda.Event() if device.type == "cuda" else None

    def mark(self) -> None:
        """Let this be what the current queue has been given so far."""
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        """Let the current queue go on only after this point."""
        if self._event is not None:
            self._event.wait()


class SideQueue:
    """Copies between host and device that the computation need not wait for."""

    def __init__(self, device: torch.device) -> None:
        """Open a queue of ``device``."""
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What is started in the block runs beside the computation."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def let_computation_finish(self) -> None:
        """Begin what comes next only after what the computation has been given so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def hold(self, tensor: torch.Tensor) -> None:
        """Keep the memory of ``tensor`` from being reused before this queue is through with it."""
        if self._stream is not None:
            tensor.record_stream(self._stream)
