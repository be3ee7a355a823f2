"""Follows a run: shows how it goes, ends it early, stops it when its loss is lost."""

import math
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

import torch
from rich import get_console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from the_block_llm.errors import TrainingError
from the_block_llm.pipelines.qlora_train.checkpoint.log_history import (
    best_validation,
    mean_loss,
    training_steps,
    validations,
    validations_since_best,
)
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import RandomStates
from the_block_llm.pipelines.qlora_train.runtime.signals import StopRequest

# Nats per token above the untrained model: seven times its perplexity.
_DIVERGED_BY: Final = 2.0
# Narrower terminals have no room for bar, time left and every figure in one line.
_WIDE_COLUMNS: Final = 125
_ADVICE: Final = (
    "The checkpoints up to there are kept. Lower the learning rate (1.5e-4 after 2e-4) and "
    "restart with --params=qlora_train.restart_training=true, or look for rows that are not text."
)


class Bar(Protocol):
    """Where progress is shown."""

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        """Count ``steps`` as done and show ``note`` beside them."""


class RunWatcher(TrainerCallback):
    """Turns the Trainer's events into progress, and its measurements into decisions.

    Every decision follows from the log, which is part of each checkpoint: a resumed run
    decides as the uninterrupted one would have.
    """

    def __init__(
        self, bar: Bar, request: StopRequest, shown_steps: int, patience: int | None = None
    ) -> None:
        """Args: ``shown_steps`` is the window of the shown loss, ``patience`` in validations."""
        self._bar = bar
        self._request = request
        self._window = shown_steps
        self._patience = patience
        self._shown = 0
        self._run_began = self._step_began = time.monotonic()
        self.step_seconds = 0.0
        """Of the last optimizer step: forward, backward and update, nothing else."""
        self._seconds_before = 0.0
        self.random_states: RandomStates | None = None
        """As they were after the last finished step."""
        self.stopped_early = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the steps and seconds of a resumed run as done."""
        del args, control, kwargs
        steps = training_steps(state.log_history)
        self._seconds_before = steps[-1]["seconds"] if steps else 0.0
        self._run_began = time.monotonic()
        # Killed between its early end and the writing of its adapter.
        self.stopped_early = self._out_of_patience(state)
        self._show(state)

    @property
    def run_seconds(self) -> float:
        """Of the whole run so far, those of earlier processes included."""
        return self._seconds_before + time.monotonic() - self._run_began

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the random states, to come back to them should memory run out."""
        del args, state, control, kwargs
        self.random_states = RandomStates.now()
        self._step_began = time.monotonic()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the watch, before questions, validation and saving take their time."""
        del state, control, kwargs
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)
        self.step_seconds = time.monotonic() - self._step_began

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End on request with a checkpoint; measure and save what the last step made."""
        del kwargs
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
        asked = torch.tensor(float(self._request.signal is not None), device=args.device)
        # All processes stop after the same step, whichever of them was asked.
        if float(distributed.sum_over_all(asked)) > 0:
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the latest figures.

        Raises:
            TrainingError: A loss is not a number.
        """
        del args, control, kwargs
        for name in ("loss", "eval_loss"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise TrainingError(
                    f"The {name} became {value} at step {state.global_step}. {_ADVICE}"
                )
        self._show(state)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep a new best; end where patience runs out.

        Raises:
            TrainingError: The model has become far worse than it was untrained.
        """
        del args, kwargs
        measured = validations(state.log_history)
        first, last = measured[0], measured[-1]
        if last.step == 0:
            return
        if first.step == 0 and last.loss > first.loss + _DIVERGED_BY:
            raise TrainingError(
                f"Training diverges: the validation loss is {last.loss:.2f} at step {last.step}, "
                f"and was {first.loss:.2f} before training. {_ADVICE}"
            )
        best = best_validation(state.log_history)
        if best is not None and best.step == last.step:
            control.should_save = True
        if self._out_of_patience(state):
            self.stopped_early = True
            control.should_save = control.should_training_stop = True

    def _out_of_patience(self, state: TrainerState) -> bool:
        since_best = validations_since_best(state.log_history)
        return self._patience is not None and since_best >= self._patience

    def _show(self, state: TrainerState) -> None:
        console = get_console()
        short = console.is_terminal and console.width < _WIDE_COLUMNS
        text = note(state.log_history, self._window, short)
        self._bar.advance(state.global_step - self._shown, text)
        self._shown = state.global_step


def note(log: list[Mapping[str, Any]], window: int, short: bool = False) -> str:
    """The figures beside the bar, from the log; ``short`` leaves out what can wait for the report.

    >>> note([{"step": 1, "loss": 2.0, "learning_rate": 1e-4, "tokens": 80,
    ...        "step_seconds": 1.0, "memory_gib": 1.5}], 5)
    'loss 2.000 · lr 1.0e-04 · 80 tokens/s · 1.5 GiB'
    """
    parts = []
    steps = training_steps(log)
    loss, best = mean_loss(log, window), best_validation(log)
    if loss is not None:
        parts.append(f"loss {loss:.2f}" if short else f"loss {loss:.3f}")
    if measured := validations(log):
        last = measured[-1]
        parts.append(f"val {last.loss:.2f}" if short else f"validation {last.loss:.3f}")
        if best is not None and best.step != last.step and not short:
            parts[-1] += f" (best {best.loss:.3f})"
    if steps:
        recent = steps[-window:]
        seconds = sum(entry["step_seconds"] for entry in recent)
        speed = sum(entry["tokens"] for entry in recent) / max(seconds, 1e-9)
        rate, memory = steps[-1]["learning_rate"], steps[-1]["memory_gib"]
        if short:
            parts.append(f"{speed:,.0f} tok/s")
        else:
            parts += [f"lr {rate:.1e}", f"{speed:,.0f} tokens/s", f"{memory:.1f} GiB"]
    return " · ".join(parts)
