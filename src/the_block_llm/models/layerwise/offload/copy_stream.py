"""A CUDA stream for copies that overlap with computation; on a CPU everything is synchronous."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class CudaEvent:
    """A CUDA event; on a CPU a no-op."""

    def __init__(self, device: torch.device) -> None:
        """Create an unrecorded event; waiting for it has no effect."""
        self._event = torch.cuda.Event() if device.type == "cuda" else None

    def record(self) -> None:
        """Record the event in the current stream."""
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        """Make the current stream wait for the event."""
        if self._event is not None:
            self._event.wait()


class CopyStream:
    """A stream for copies between host and device; on a CPU a no-op."""

    def __init__(self, device: torch.device) -> None:
        """Create a stream on ``device``."""
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Make this the current stream within the block."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def wait_for_compute(self) -> None:
        """Make this stream wait for the work submitted to the current stream so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def record_use(self, tensor: torch.Tensor) -> None:
        """Keep the memory of ``tensor`` from being reused before this stream is done with it."""
        if self._stream is not None:
            tensor.record_stream(self._stream)
