"""Follows a run: moves the progress bar, stops a run whose loss is lost."""

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from the_block_llm.errors import TrainingError
from the_block_llm.progress import ProgressBar


class RunWatcher(TrainerCallback):
    """Turns the Trainer's events into progress, and a loss that is no number into an error."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._note = ""
        self._shown_steps = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Count the steps of a resumed run as done."""
        del args, control, kwargs
        self._show(state.global_step)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Move on by one optimizer step."""
        del args, control, kwargs
        self._show(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the latest losses.

        Raises:
            TrainingError: A loss is not a number.
        """
        del args, control, kwargs
        for name in ("loss", "eval_loss"):
            value = (logs or {}).get(name)
            if value is None:
                continue
            if not math.isfinite(value):
                raise TrainingError(
                    f"The {name} became {value} at step {state.global_step}. The checkpoints up "
                    "to there are kept. Lower the learning rate (1.5e-4 after 2e-4), or look "
                    "for rows that are not text."
                )
            label = "loss" if name == "loss" else "validation"
            others = [part for part in self._note.split(" · ") if part and label not in part]
            self._note = " · ".join(sorted([*others, f"{label} {value:.3f}"]))
        self._show(state.global_step)

    def _show(self, global_step: int) -> None:
        self._bar.advance(global_step - self._shown_steps, self._note)
        self._shown_steps = global_step
