"""Interrupting a run at a given step."""

from collections.abc import Callable
from typing import Any

import pytest

from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop.progress_callback import ProgressCallback
from the_block_llm.pipelines.qlora_train.loop.train_run import train


class Killed(BaseException):
    """Not caught anywhere, so that no cleanup runs, as in a killed process."""


def call_after_step(
    monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]
) -> pytest.MonkeyPatch:
    """Call ``action`` once, after ``step`` and before its checkpoint is saved."""
    original = ProgressCallback.on_step_end
    pending = [action]

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step and pending:
            pending.pop()()
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(ProgressCallback, "on_step_end", on_step_end)
    return monkeypatch


def kill_after_step(monkeypatch: pytest.MonkeyPatch, step: int, job: TrainingJob) -> None:
    def die() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        call_after_step(patch, step, die)
        with pytest.raises(Killed):
            train(job)
