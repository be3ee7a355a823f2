"""Ending a run at a moment of one's choice."""

from collections.abc import Callable
from typing import Any

import pytest

from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop.progress_callback import RunWatcher
from the_block_llm.pipelines.qlora_train.loop.run import train


class Killed(BaseException):
    """Passes through everything, as a killed process would; nothing gets to tidy up."""


def at_step(
    monkeypatch: pytest.MonkeyPatch, step: int, do: Callable[[], None]
) -> pytest.MonkeyPatch:
    """Do something once, right after ``step`` is finished and before anything is saved."""
    before = RunWatcher.on_step_end
    waiting = [do]

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step and waiting:
            waiting.pop()()
        before(self, args, state, control, **kwargs)

    monkeypatch.setattr(RunWatcher, "on_step_end", on_step_end)
    return monkeypatch


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int, job: TrainingJob) -> None:
    def die() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        at_step(patch, step, die)
        with pytest.raises(Killed):
            train(job)
