from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from the_block_llm.errors import TrainingError
from the_block_llm.pipelines.qlora_train.loop.progress_callback import RunWatcher, note
from the_block_llm.pipelines.qlora_train.runtime.signals import StopRequest


class _NoBar:
    def advance(self, steps: float = 1, note: str | None = None) -> None:
        pass


def decide(tmp_path: Any, validation_losses: list[float], patience: int | None) -> TrainerControl:
    """What is decided after the last of these validations, made at steps 0, 10, 20, …"""
    log = [{"step": 10 * i, "eval_loss": loss} for i, loss in enumerate(validation_losses)]
    control = TrainerControl()
    RunWatcher(_NoBar(), StopRequest(), 5, patience).on_evaluate(
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True),
        TrainerState(log_history=log),
        control,
    )
    return control


@pytest.mark.parametrize(
    ("validation_losses", "patience", "saves", "stops"),
    [
        ([3.0], 1, False, False),
        ([3.0, 2.9], 1, True, False),
        ([3.0, 3.1], 1, True, False),  # worse than untrained, yet the best that was trained
        ([3.0, 2.9, 2.9], 2, False, False),
        ([3.0, 2.9, 2.95, 2.94], 2, True, True),
        ([3.0, 2.9, 2.95, 2.94], None, False, False),
        ([3.0, 2.9, 2.95, 2.8, 2.85], 2, False, False),
    ],
)
def test_a_new_best_is_saved_and_patience_ends_the_run(
    tmp_path: Any, validation_losses: list[float], patience: int | None, saves: bool, stops: bool
) -> None:
    control = decide(tmp_path, validation_losses, patience)
    assert (control.should_save, control.should_training_stop) == (saves, stops)


def test_a_loss_that_runs_away_stops_the_run_with_advice(tmp_path: Any) -> None:
    with pytest.raises(TrainingError, match=r"diverges.*5\.20 at step 20.*3\.00.*learning rate"):
        decide(tmp_path, [3.0, 2.9, 5.2], None)


def test_the_note_shows_the_mean_of_the_last_steps_and_the_best() -> None:
    log = [
        {"step": 0, "eval_loss": 3.0},
        *(
            {"step": i, "loss": float(i), "learning_rate": 2e-4, "tokens": 100,
             "step_seconds": 0.5, "memory_gib": 1.0}
            for i in (1, 2, 3)
        ),
        {"step": 2, "eval_loss": 2.5},
        {"step": 3, "eval_loss": 2.6},
    ]  # fmt: skip
    assert note(log, 2) == (
        "loss 2.500 · validation 2.600 (best 2.500) · lr 2.0e-04 · 200 tokens/s · 1.0 GiB"
    )
    assert note(log, 2, short=True) == "loss 2.50 · val 2.60 · 200 tok/s"
