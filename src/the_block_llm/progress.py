"""Progress of long work: a bar on a terminal, a line now and then anywhere else.

The bar draws on Rich's global console, which Kedro's log handler also uses, so log lines
appear above the bar and never through it.
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
_SECONDS_BETWEEN_LINES: Final = 15.0
_IS_SILENT: Final = ContextVar("is_silent", default=False)


class ProgressBar:
    """Counts work done; made by :func:`progress_bar`."""

    def __init__(self, description: str, total: float | None, bar: Progress | None) -> None:
        self._description = description
        self._total = total
        self._bar = bar
        self._task: TaskID | None = bar.add_task(description, total=total, note="") if bar else None
        self._done = 0.0
        self._started = self._last_line = time.monotonic()

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        """Count ``steps`` more as done and show ``note`` (say, the loss) beside the bar."""
        self._done += steps
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, steps)
            if note is not None:
                self._bar.update(self._task, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            _log.info("%s", self._line(now, note), extra={"markup": False})

    def set_total(self, total: float) -> None:
        """Say how much there is in all, once it is known."""
        self._total = total
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=total)

    def _line(self, now: float, note: str | None) -> str:
        parts = [self._description]
        if self._total:
            left = (now - self._started) * (self._total / self._done - 1) if self._done else None
            parts.append(f"{self._done:,.0f} of {self._total:,.0f}")
            if left is not None:
                parts.append(f"about {max(0.0, left):.0f} s left")
        else:
            parts.append(f"{self._done:,.0f} so far")
        if note:
            parts.append(note)
        return " · ".join(parts)


@contextmanager
def disable_progress() -> Iterator[None]:
    """Show nothing of the work in this context: it is a part of what another bar counts."""
    token = _IS_SILENT.set(True)
    try:
        yield
    finally:
        _IS_SILENT.reset(token)


class _Silent(ProgressBar):
    def advance(self, steps: float = 1, note: str | None = None) -> None:
        del steps, note


@contextmanager
def progress_bar(description: str, total: float | None = None) -> Iterator[ProgressBar]:
    """Show how far ``description`` has come, out of ``total`` units, and how long still."""
    if _IS_SILENT.get():
        yield _Silent(description, total, None)
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
