"""Graceful shutdown: SIGINT and SIGTERM end a run after its current step, with a checkpoint."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_log = logging.getLogger(__name__)
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """The signal that asked the run to stop, if any."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Record the first SIGINT or SIGTERM instead of exiting; a second one interrupts.

    Yields:
        The request, whose ``signal`` is set once one has arrived. Outside the main thread it is
        never set, since Python delivers signals to the main thread only.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if request.signal is not None:
            raise KeyboardInterrupt
        request.signal = signal.Signals(number)
        _log.warning(
            "%s: stopping after this step, with a checkpoint. Send it again to stop immediately.",
            request.signal.name,
        )

    previous: dict[signal.Signals, Any] = {s: signal.signal(s, handle) for s in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
