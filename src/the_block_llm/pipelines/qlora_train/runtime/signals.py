"""Ending a run before its time, on request, without losing what it has done."""

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
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note the first interrupt or termination instead of dying of it; the second one kills."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only; a killed run resumes all the same.
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if request.signal is not None:
            raise KeyboardInterrupt
        request.signal = signal.Signals(number)
        _log.warning(
            "%s: stopping after this step, with a checkpoint. Once more stops at once.",
            request.signal.name,
        )

    before: dict[signal.Signals, Any] = {s: signal.signal(s, note) for s in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
