"""How many epochs a token budget is worth."""

import math
from dataclasses import dataclass

from the_block_llm.errors import ParameterError


@dataclass(frozen=True)
class EpochPlan:
    """The decision and what led to it."""

    rows: int
    trained_tokens_per_epoch: int
    target_tokens: int
    epochs_wanted: float | None
    """Before clamping; none where there are no tokens, since nothing is wanted then."""
    epochs: int
    reason: str
    steps: int
    """Optimizer steps."""


def plan_epochs(
    rows: int,
    trained_tokens_per_epoch: int,
    target_tokens: int,
    min_epochs: int,
    max_epochs: int,
    effective_batch_rows: int,
    force_epochs: int | None = None,
    max_steps: int | None = None,
    steps_per_epoch: int | None = None,
) -> EpochPlan:
    """Choose ``ceil(target / tokens per epoch)`` epochs, held between the bounds.

    Args:
        rows: Rows of one epoch.
        trained_tokens_per_epoch: Tokens with a label in those rows; repeated context and
            prompts do not count.
        target_tokens: Trained tokens wanted in all.
        min_epochs: Lower bound.
        max_epochs: Upper bound, and the choice where there are no tokens to count.
        effective_batch_rows: Rows of one optimizer step.
        force_epochs: Wins over everything above.
        max_steps: Cuts the optimizer steps, not the epochs.
        steps_per_epoch: Where it is not the rows over the batch, since curriculum stages each
            end with a step.

    Raises:
        ParameterError: A number is negative, NaN or out of order.

    >>> plan_epochs(1000, 512_000, 50_000_000, 6, 12, 8).epochs
    12
    """
    numbers = {
        "rows": rows, "trained_tokens_per_epoch": trained_tokens_per_epoch,
        "target_tokens": target_tokens, "min_epochs": min_epochs, "max_epochs": max_epochs,
        "effective_batch_rows": effective_batch_rows,
    }  # fmt: skip
    for name, value in numbers.items():
        if not math.isfinite(value) or value < 0:
            raise ParameterError(f"{name} is {value}; it must be a number of at least 0.")
    if min_epochs > max_epochs or effective_batch_rows < 1:
        raise ParameterError(
            f"min_epochs {min_epochs} must not exceed max_epochs {max_epochs}, and "
            f"effective_batch_rows {effective_batch_rows} must be at least 1."
        )
    wanted = target_tokens / trained_tokens_per_epoch if trained_tokens_per_epoch else None
    if force_epochs is not None:
        epochs, reason = force_epochs, "force_epochs"
    elif wanted is None:
        epochs, reason = max_epochs, "no trained tokens to count: max_epochs"
    elif math.ceil(wanted) < min_epochs:
        epochs, reason = min_epochs, "the budget is reached sooner: min_epochs"
    elif math.ceil(wanted) > max_epochs:
        epochs, reason = max_epochs, "the budget would take longer: max_epochs"
    else:
        epochs, reason = math.ceil(wanted), "target_tokens"
    if steps_per_epoch is None:
        steps_per_epoch = math.ceil(rows / effective_batch_rows)
    steps = steps_per_epoch * epochs
    if max_steps is not None and max_steps < steps:
        steps, reason = max_steps, f"{reason}, cut by max_steps"
    return EpochPlan(
        rows=rows,
        trained_tokens_per_epoch=trained_tokens_per_epoch,
        target_tokens=target_tokens,
        epochs_wanted=wanted,
        epochs=epochs,
        reason=reason,
        steps=steps,
    )
