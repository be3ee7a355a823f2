"""The number of epochs for a token budget."""

import math
from dataclasses import dataclass

from the_block_llm.errors import ParameterError


@dataclass(frozen=True)
class EpochPlan:
    """Epochs and steps of a run, and how they were chosen."""

    rows: int
    trained_tokens_per_epoch: int
    target_tokens: int
    epochs_wanted: float | None
    """``target_tokens`` over tokens per epoch, not clamped; ``None`` without trained tokens."""
    epochs: int
    reason: str
    steps: int
    """Optimizer steps."""


def plan_epochs(
    rows: int,
    trained_tokens_per_epoch: int,
    steps_per_epoch: int,
    target_tokens: int,
    min_epochs: int,
    max_epochs: int,
    force_epochs: int | None = None,
    max_steps: int | None = None,
) -> EpochPlan:
    """Choose ``ceil(target / tokens per epoch)`` epochs, clamped to the bounds.

    Args:
        rows: Rows of one epoch.
        trained_tokens_per_epoch: Tokens with a label in those rows; repeated context and
            prompts have none.
        steps_per_epoch: Optimizer steps of one epoch.
        target_tokens: Trained tokens to aim at.
        min_epochs: Lower bound.
        max_epochs: Upper bound, and the choice if there are no trained tokens.
        force_epochs: Overrides the choice.
        max_steps: Limits the optimizer steps, not the epochs.

    Raises:
        ParameterError: A number is negative or NaN, or the bounds are in the wrong order.

    >>> plan_epochs(1000, 512_000, 125, 50_000_000, 6, 12).epochs
    12
    """
    numbers = {
        "rows": rows, "trained_tokens_per_epoch": trained_tokens_per_epoch,
        "steps_per_epoch": steps_per_epoch, "target_tokens": target_tokens,
        "min_epochs": min_epochs, "max_epochs": max_epochs,
    }  # fmt: skip
    for name, value in numbers.items():
        if not math.isfinite(value) or value < 0:
            raise ParameterError(f"{name} is {value}; it must be a number of at least 0.")
    if min_epochs > max_epochs:
        raise ParameterError(f"min_epochs {min_epochs} must not exceed max_epochs {max_epochs}.")
    needed_epochs = target_tokens / trained_tokens_per_epoch if trained_tokens_per_epoch else None
    if force_epochs is not None:
        epochs, reason = force_epochs, "force_epochs"
    elif needed_epochs is None:
        epochs, reason = max_epochs, "no trained tokens: max_epochs"
    elif math.ceil(needed_epochs) < min_epochs:
        epochs, reason = min_epochs, "target_tokens needs fewer: min_epochs"
    elif math.ceil(needed_epochs) > max_epochs:
        epochs, reason = max_epochs, "target_tokens needs more: max_epochs"
    else:
        epochs, reason = math.ceil(needed_epochs), "target_tokens"
    steps = steps_per_epoch * epochs
    if max_steps is not None and max_steps < steps:
        steps, reason = max_steps, f"{reason}, limited by max_steps"
    return EpochPlan(
        rows=rows,
        trained_tokens_per_epoch=trained_tokens_per_epoch,
        target_tokens=target_tokens,
        epochs_wanted=needed_epochs,
        epochs=epochs,
        reason=reason,
        steps=steps,
    )
