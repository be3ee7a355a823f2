"""The words that both engines share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A module's function and its arguments; pickle must be able to send both."""


@dataclass(frozen=True)
class WorkerLost:
    """Stands for the result of a job whose worker died under it every time."""

    reason: str
