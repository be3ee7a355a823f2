"""Types shared by both engines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A job: a module-level function and its arguments, both picklable."""


@dataclass(frozen=True)
class WorkerLost:
    """Result of a job whose worker died on every attempt."""

    reason: str
