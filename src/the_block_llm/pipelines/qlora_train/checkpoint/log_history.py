"""Queries on a run's log history: training steps, validations, best validation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LogHistory = Sequence[Mapping[str, Any]]
"""``log_history`` of a Trainer; every checkpoint includes it, so a resumed run has all of it."""


class Validation(NamedTuple):
    """One evaluation on the validation rows."""

    step: int
    loss: float
    """Nats per token."""


def validations(log: LogHistory) -> list[Validation]:
    """Return all validations, oldest first; step 0 is the untrained model."""
    return [Validation(e["step"], e["eval_loss"]) for e in log if "eval_loss" in e]


def best_validation(log: LogHistory) -> Validation | None:
    """Return the validation with the lowest loss after step 0, the earliest on a tie."""
    return min((v for v in validations(log) if v.step), key=lambda v: v.loss, default=None)


def validations_since_best(log: LogHistory) -> int:
    """Count the validations after the best one."""
    best = best_validation(log)
    return 0 if best is None else sum(v.step > best.step for v in validations(log))


def training_steps(log: LogHistory) -> list[Mapping[str, Any]]:
    """Return the entries of optimizer steps, one per step."""
    return [entry for entry in log if "loss" in entry]


def mean_loss(log: LogHistory, last_steps: int) -> float | None:
    """Return the mean training loss of the last ``last_steps`` steps, ``None`` before step 1."""
    losses = [entry["loss"] for entry in training_steps(log)[-last_steps:]]
    return sum(losses) / len(losses) if losses else None
