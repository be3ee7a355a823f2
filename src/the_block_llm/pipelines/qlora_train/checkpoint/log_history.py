"""Reading the log of a run: what was measured at which step."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Log = Sequence[Mapping[str, Any]]
"""``log_history`` of a Trainer; it is part of every checkpoint, so it survives the process."""


class Validation(NamedTuple):
    """One measurement of the validation rows."""

    step: int
    loss: float
    """Nats per token."""


def validations(log: Log) -> list[Validation]:
    """All validations, oldest first; that of step 0 is the untrained model's."""
    return [Validation(e["step"], e["eval_loss"]) for e in log if "eval_loss" in e]


def best_validation(log: Log) -> Validation | None:
    """The lowest validation loss after training began, the earliest where several are equal."""
    return min((v for v in validations(log) if v.step), key=lambda v: v.loss, default=None)


def validations_since_best(log: Log) -> int:
    """How many validations in a row have not been better than the best."""
    best = best_validation(log)
    return 0 if best is None else sum(v.step > best.step for v in validations(log))


def training_steps(log: Log) -> list[Mapping[str, Any]]:
    """The entries of optimizer steps, one a step."""
    return [entry for entry in log if "loss" in entry]


def mean_loss(log: Log, last_steps: int) -> float | None:
    """Mean training loss of the last ``last_steps`` steps; none before the first."""
    losses = [entry["loss"] for entry in training_steps(log)[-last_steps:]]
    return sum(losses) / len(losses) if losses else None
