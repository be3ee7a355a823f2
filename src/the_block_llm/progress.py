"""Progress reporting: a progress bar on a terminal, else a log line every 15 seconds.

The bar uses Rich's global console, as does Kedro's log handler, so log lines appear above the bar
and do not interrupt it.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from rich import get_console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_log = logging.getLogger(__name__)
_LOG_INTERVAL_S: Final = 15.0
_IS_SILENT: Final = ContextVar("is_silent", default=False)


class ProgressBar:
    """Tracks completed work; created by :func:`progress_bar`."""

    def __init__(self, description: str, total: float | None, bar: Progress | None) -> None:
        self._description = description
        self._total = total
        self._bar = bar
        self._task: TaskID | None = bar.add_task(description, total=total, note="") if bar else None
        self._done = 0.0
        self._started = self._last_logged = time.monotonic()

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        """Advance by ``steps`` units and show ``note`` (for example the loss) next to the bar."""
        self._done += steps
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, steps)
            if note is not None:
                self._bar.update(self._task, note=note)
            return
        now = time.monotonic()
        if now - self._last_logged >= _LOG_INTERVAL_S:
            self._last_logged = now
            _log.info("%s", self._format_line(now, note), extra={"markup": False})

    def set_total(self, total: float) -> None:
        """Set the total number of units, once it is known."""
        self._total = total
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=total)

    def _format_line(self, now: float, note: str | None) -> str:
        parts = [self._description]
        if self._total:
            remaining_s = (
                (now - self._started) * (self._total / self._done - 1) if self._done else None
            )
            parts.append(f"{self._done:,.0f} of {self._total:,.0f}")
            if remaining_s is not None:
                parts.append(f"about {max(0.0, remaining_s):.0f} s left")
        else:
            parts.append(f"{self._done:,.0f} so far")
        if note:
            parts.append(note)
        return " · ".join(parts)


@contextmanager
def disable_progress() -> Iterator[None]:
    """Disable progress bars in this context, whose work is part of another bar's total."""
    token = _IS_SILENT.set(True)
    try:
        yield
    finally:
        _IS_SILENT.reset(token)


class _SilentProgressBar(ProgressBar):
    def advance(self, steps: float = 1, note: str | None = None) -> None:
        del steps, note


@contextmanager
def progress_bar(description: str, total: float | None = None) -> Iterator[ProgressBar]:
    """Show progress and remaining time of a task of ``total`` units; None: unknown total."""
    if _IS_SILENT.get():
        yield _SilentProgressBar(description, total, None)
        return
    console = get_console()
    if not console.is_terminal:
        yield ProgressBar(description, total, None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("·"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield ProgressBar(description, total, bar)
