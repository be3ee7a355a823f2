from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from the_block_llm.errors import TrainingError
from the_block_llm.pipelines.qlora_train.loop.progress_callback import (
    ProgressCallback,
    format_metrics,
)
from the_block_llm.pipelines.qlora_train.runtime.signals import StopRequest


class _NullReporter:
    def advance(self, steps: float = 1, note: str | None = None) -> None:
        pass


def evaluate_callback(
    tmp_path: Any, validation_losses: list[float], patience: int | None
) -> TrainerControl:
    """Return the control after the last of these validations, at steps 0, 10, 20, …"""
    log = [{"step": 10 * i, "eval_loss": loss} for i, loss in enumerate(validation_losses)]
    control = TrainerControl()
    ProgressCallback(_NullReporter(), StopRequest(), 5, patience).on_evaluate(
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
        ([3.0, 3.1], 1, True, False),  # worse than untrained, but the best after step 0
        ([3.0, 2.9, 2.9], 2, False, False),
        ([3.0, 2.9, 2.95, 2.94], 2, True, True),
        ([3.0, 2.9, 2.95, 2.94], None, False, False),
        ([3.0, 2.9, 2.95, 2.8, 2.85], 2, False, False),
    ],
)
def test_new_best_is_saved_and_exhausted_patience_stops_the_run(
    tmp_path: Any, validation_losses: list[float], patience: int | None, saves: bool, stops: bool
) -> None:
    control = evaluate_callback(tmp_path, validation_losses, patience)
    assert (control.should_save, control.should_training_stop) == (saves, stops)


def test_diverging_validation_loss_raises_with_a_remedy(tmp_path: Any) -> None:
    with pytest.raises(TrainingError, match=r"diverges.*5\.20 at step 20.*3\.00.*learning rate"):
        evaluate_callback(tmp_path, [3.0, 2.9, 5.2], None)


def test_formatted_metrics_show_mean_loss_and_best_validation() -> None:
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
    assert format_metrics(log, 2) == (
        "loss 2.500 · validation 2.600 (best 2.500) · lr 2.0e-04 · 200 tokens/s · 1.0 GiB"
    )
    assert format_metrics(log, 2, compact=True) == "loss 2.50 · val 2.60 · 200 tok/s"
