"""Trainer callback: progress display, early stopping, abort on NaN or divergence."""

import math
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

import torch
from rich import get_console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from the_block_llm.errors import TrainingError
from the_block_llm.pipelines.qlora_train.checkpoint.log_history import (
    LogHistory,
    best_validation,
    mean_loss,
    training_steps,
    validations,
    validations_since_best,
)
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import RngState
from the_block_llm.pipelines.qlora_train.runtime.signals import StopRequest

# Increase over the untrained model, in nats per token: seven times its perplexity.
_DIVERGENCE_NATS: Final = 2.0
# Narrower terminals cannot show the bar, the time left and all metrics in one line.
_FULL_WIDTH_COLUMNS: Final = 125
_REMEDY: Final = (
    "Earlier checkpoints are kept. Lower the learning rate (1.5e-4 after 2e-4) and restart with "
    "--params=qlora_train.restart_training=true, or look for rows that are not text."
)


class ProgressReporter(Protocol):
    """A progress bar, or anything else that displays progress."""

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        """Count ``steps`` more as done and show ``note`` next to the bar."""


class ProgressCallback(TrainerCallback):
    """Displays progress and decides when to validate, save and stop.

    Every decision is derived from the log history, which each checkpoint includes, so a resumed
    run decides as the uninterrupted one would have.
    """

    def __init__(
        self, bar: ProgressReporter, request: StopRequest, window_steps: int, patience: int | None
    ) -> None:
        """Create the callback.

        Args:
            bar: Displays the progress.
            request: Whether a signal asked the run to stop.
            window_steps: Steps over which the displayed loss and speed are averaged.
            patience: Validations without an improvement before the run is stopped; ``None``:
                never.
        """
        self._bar = bar
        self._request = request
        self._window_steps = window_steps
        self._patience = patience
        self._shown_steps = 0
        self._run_start = self._step_start = time.monotonic()
        self.step_seconds = 0.0
        """Duration of the last optimizer step: forward, backward and update only."""
        self._previous_seconds = 0.0
        self.rng_state: RngState | None = None
        """Random state after the last completed step."""
        self.stopped_early = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore steps and seconds of a resumed run."""
        del args, control, kwargs
        steps = training_steps(state.log_history)
        self._previous_seconds = steps[-1]["seconds"] if steps else 0.0
        self._run_start = time.monotonic()
        # True if the run was killed between early stopping and saving its adapter.
        self.stopped_early = self._patience_exhausted(state)
        self._show(state)

    @property
    def run_seconds(self) -> float:
        """Duration of the run so far, including earlier processes."""
        return self._previous_seconds + time.monotonic() - self._run_start

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Capture the random state, which is restored if this step runs out of memory."""
        del args, state, control, kwargs
        self.rng_state = RngState.capture()
        self._step_start = time.monotonic()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the step, before samples, validation and saving."""
        del state, control, kwargs
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)
        self.step_seconds = time.monotonic() - self._step_start

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Validate and save after the last step; save and stop if a signal arrived."""
        del kwargs
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
        stop = torch.tensor(float(self._request.signal is not None), device=args.device)
        # All processes stop after the same step, whichever of them received the signal.
        if float(distributed.all_reduce_sum(stop)) > 0:
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Display the latest metrics.

        Raises:
            TrainingError: A loss is NaN or infinite.
        """
        del args, control, kwargs
        for name in ("loss", "eval_loss"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise TrainingError(
                    f"The {name} became {value} at step {state.global_step}. {_REMEDY}"
                )
        self._show(state)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save a new best; stop early once patience is exhausted.

        Raises:
            TrainingError: The validation loss diverged.
        """
        del args, kwargs
        history = validations(state.log_history)
        first, last = history[0], history[-1]
        if last.step == 0:
            return
        if first.step == 0 and last.loss > first.loss + _DIVERGENCE_NATS:
            raise TrainingError(
                f"Training diverges: the validation loss is {last.loss:.2f} at step {last.step}, "
                f"and was {first.loss:.2f} before training. {_REMEDY}"
            )
        best = best_validation(state.log_history)
        if best is not None and best.step == last.step:
            control.should_save = True
        if self._patience_exhausted(state):
            self.stopped_early = True
            control.should_save = control.should_training_stop = True

    def _patience_exhausted(self, state: TrainerState) -> bool:
        since_best = validations_since_best(state.log_history)
        return self._patience is not None and since_best >= self._patience

    def _show(self, state: TrainerState) -> None:
        console = get_console()
        compact = console.is_terminal and console.width < _FULL_WIDTH_COLUMNS
        note = format_metrics(state.log_history, self._window_steps, compact)
        self._bar.advance(state.global_step - self._shown_steps, note)
        self._shown_steps = state.global_step


def format_metrics(log: LogHistory, window_steps: int, compact: bool = False) -> str:
    """Format the latest metrics for the progress bar.

    Args:
        log: The run's log history.
        window_steps: Steps over which loss and speed are averaged.
        compact: Only loss and speed, for narrow terminals.

    >>> format_metrics([{"step": 1, "loss": 2.0, "learning_rate": 1e-4, "tokens": 80,
    ...                  "step_seconds": 1.0, "memory_gib": 1.5}], 5)
    'loss 2.000 · lr 1.0e-04 · 80 tokens/s · 1.5 GiB'
    """
    parts = []
    steps = training_steps(log)
    loss, best = mean_loss(log, window_steps), best_validation(log)
    if loss is not None:
        parts.append(f"loss {loss:.2f}" if compact else f"loss {loss:.3f}")
    if history := validations(log):
        last = history[-1]
        parts.append(f"val {last.loss:.2f}" if compact else f"validation {last.loss:.3f}")
        if best is not None and best.step != last.step and not compact:
            parts[-1] += f" (best {best.loss:.3f})"
    if steps:
        recent = steps[-window_steps:]
        seconds = sum(entry["step_seconds"] for entry in recent)
        tokens_per_second = sum(entry["tokens"] for entry in recent) / max(seconds, 1e-9)
        learning_rate, memory_gib = steps[-1]["learning_rate"], steps[-1]["memory_gib"]
        if compact:
            parts.append(f"{tokens_per_second:,.0f} tok/s")
        else:
            parts += [
                f"lr {learning_rate:.1e}",
                f"{tokens_per_second:,.0f} tokens/s",
                f"{memory_gib:.1f} GiB",
            ]
    return " · ".join(parts)
