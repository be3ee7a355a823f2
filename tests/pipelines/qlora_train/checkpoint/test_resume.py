"""Whatever happens to a run, nothing is lost and nothing changes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.pipelines.qlora_train.jobs import (
    TEXT,
    change,
    losses,
    make_job,
    row,
    save_rows,
    trace,
    trained,
)
from tests.pipelines.qlora_train.killing import Killed, at_step, kill_at

from the_block_llm.errors import StoppedOnRequest, StorageError, TrainingError
from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import complete_checkpoints
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop import run
from the_block_llm.pipelines.qlora_train.loop.run import train


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of the job, trained without a break."""
    return trained(make_job(base, tmp_path_factory.mktemp("whole")))


def unfinished(job: TrainingJob) -> Path:
    return job.work_folder / job.profile.name / ".unfinished"


def test_a_run_cut_off_resumes_with_the_same_losses(
    job: TrainingJob, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rare saves, so that it stops between a checkpoint and the next; every best is saved too.
    kill_at(monkeypatch, 11, job)
    resumed = trained(job)
    assert resumed["resumed_from"] == "checkpoint-10"
    assert trace(resumed) == trace(whole)
    assert resumed["validation_history"] == whole["validation_history"]


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(
    job: TrainingJob,
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kill_at(monkeypatch, 11, job)
    weights = unfinished(job) / "checkpoint-10/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    caplog.set_level("WARNING")
    resumed = trained(job)
    assert "checkpoint-10 was cut off" in caplog.text
    assert resumed["resumed_from"] == "checkpoint-8"
    assert trace(resumed) == trace(whole)


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(
    job: TrainingJob, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_disk() -> None:
        # A device on which every write fails for want of space.
        folder = unfinished(job) / "checkpoint-12"
        folder.mkdir()
        (folder / "optimizer.pt").symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        at_step(patch, 12, fill_disk)
        with pytest.raises(StorageError, match=r"step 12 could not be written.*checkpoint-10 is"):
            train(job)
    assert [c.name for c in complete_checkpoints(unfinished(job))][-1] == "checkpoint-10"
    assert trace(trained(job)) == trace(whole)


def test_a_changed_run_is_refused_by_name_or_started_anew(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at(monkeypatch, 5, job)
    with pytest.raises(TrainingError, match=r"at step 4.*values.learning_rate 0.005 → 0.004"):
        train(change(job, learning_rate=4e-3))
    anew = trained(change(job, learning_rate=4e-3, restart_training=True))
    assert (anew["resumed_from"], anew["steps_done"]) == (None, 16)


def test_changed_rows_are_refused_and_the_same_rows_written_again_are_not(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = change(job, max_steps=6)
    kill_at(monkeypatch, 5, short)
    rows = [row("something else")]
    before = short.train_folder
    other = short.model_copy(update={"train_folder": save_rows(before.with_name("other"), rows)})
    with pytest.raises(TrainingError, match="changed since: the train rows"):
        train(other)
    from the_block_llm.datasets.parquet_table import ParquetTable

    same = list(ParquetTable(before).rows())
    assert (
        trained(
            short.model_copy(update={"train_folder": save_rows(before.with_name("same"), same)})
        )["resumed_from"]
        == "checkpoint-4"
    )


def test_values_that_change_nothing_may_change_on_the_way(
    job: TrainingJob, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at(monkeypatch, 5, job)
    assert losses(trained(change(job, checkpoints_kept=1, save_steps=3))) == losses(whole)


def test_old_checkpoints_go_and_the_best_stays(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Unlike what is trained: its loss is best early on.
    save_rows(job.validation_folder, [row("0123456789 =+* zyxwv %&!? 9876543210")])
    worsening = change(job, learning_rate=2e-2, checkpoints_kept=2)
    best = trained(worsening)["best_step"]
    kill_at(monkeypatch, 15, worsening)
    kept = [int(c.name.rpartition("-")[2]) for c in complete_checkpoints(unfinished(job))]
    assert kept == sorted({best, 12, 14})


def test_a_run_that_is_in_the_way_says_so(job: TrainingJob) -> None:
    from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import open_run

    held = open_run(job)
    with pytest.raises(TrainingError, match="Another process is training tiny"):
        train(job)
    held.close()


def test_killed_after_training_and_before_the_adapter_is_written(
    job: TrainingJob, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run, "save_adapter", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(job)
    resumed = trained(job)
    assert resumed["resumed_from"] == "checkpoint-16"
    assert trace(resumed) == trace(whole)
    assert resumed["validation_loss_after"] == whole["validation_loss_after"]


def test_a_run_that_ended_early_does_not_go_on_when_it_is_killed_then(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_rows(job.validation_folder, [row("0123456789 =+* zyxwv %&!? 9876543210")])
    impatient = change(job, learning_rate=2e-2, early_stopping_patience=1)
    uncut = trained(impatient)
    assert uncut["stopped_early"]
    with monkeypatch.context() as patch:
        patch.setattr(run, "save_adapter", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(impatient)
    resumed = trained(impatient)
    assert resumed["stopped_early"]
    assert trace(resumed) == trace(uncut)
    assert resumed["best_step"] == uncut["best_step"]


def test_a_best_checkpoint_that_is_gone_gives_way_to_the_next_best(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_rows(job.validation_folder, [row("0123456789 =+* zyxwv %&!? 9876543210")])
    worsening = change(job, learning_rate=2e-2)
    uncut = trained(worsening)
    kill_at(monkeypatch, 15, worsening)
    shutil.rmtree(unfinished(job) / f"checkpoint-{uncut['best_step']}")
    caplog.set_level("WARNING")
    resumed = trained(worsening)
    assert f"best checkpoint, of step {uncut['best_step']}, is gone" in caplog.text
    assert losses(resumed) == losses(uncut)
    assert resumed["validation_loss_after"] > uncut["validation_loss_after"]


def runs_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, call: int, error: Exception, more_than_rows: int
) -> None:
    """From the ``call``-th training step on, more rows than that do not fit."""
    from the_block_llm.pipelines.qlora_train.loop.trainer import RunTrainer

    plain = RunTrainer.training_step
    calls = [0]

    def training_step(self: Any, model: Any, inputs: Any, *args: Any) -> torch.Tensor:
        calls[0] += 1
        # In the middle: gradients of this step exist already.
        loss = plain(self, model, inputs, *args)
        if calls[0] >= call and inputs["input_ids"].shape[0] > more_than_rows:
            raise error
        return loss

    monkeypatch.setattr(RunTrainer, "training_step", training_step)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (1, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
        (14, RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")),
    ],
)
def test_out_of_memory_halves_the_rows_and_learns_the_same(
    job: TrainingJob,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: int,
    error: Exception,
) -> None:
    roomy = change(job, dropout=0.0, micro_batch_rows=2, force_epochs=3)
    whole = trained(roomy)
    caplog.set_level("WARNING")
    with monkeypatch.context() as patch:
        runs_out_of_memory(patch, call, error, more_than_rows=1)
        tight = trained(roomy)
    # Two micro-batches a step: the fourteenth call is in the seventh step.
    step = 0 if call == 1 else 6
    assert tight["out_of_memory"] == [{"step": step, "went_on_with_rows": 1}]
    assert tight["micro_batch_rows"] == 1
    assert f"Out of memory after step {step} with 2 rows at a time" in caplog.text
    assert losses(tight) == pytest.approx(losses(whole), rel=1e-4)
    assert tight["steps_done"] == 12


def test_out_of_memory_with_one_row_says_what_would_fit(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_out_of_memory(monkeypatch, 1, torch.OutOfMemoryError("CUDA out of memory"), 0)
    with pytest.raises(TrainingError, match=r"single row of up to 70 tokens.*context_tokens"):
        train(change(job, micro_batch_rows=2))


def test_other_errors_are_not_taken_for_want_of_memory(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_out_of_memory(monkeypatch, 1, RuntimeError("CUDA error: device-side assert"), 0)
    with pytest.raises(RuntimeError, match="device-side"):
        train(job)


def test_a_run_through_stages_resumes_in_the_middle_of_one(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_rows(job.train_folder, [row(TEXT[i:], stage=1 + i // 8) for i in range(16)])
    staged = change(job, force_epochs=2)
    uncut = trained(staged)
    kill_at(monkeypatch, 7, staged)
    resumed = trained(staged)
    assert resumed["resumed_from"] == "checkpoint-6"
    assert trace(resumed) == trace(uncut)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    job: TrainingJob, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    with monkeypatch.context() as patch:
        # Between two saves, and between two validations.
        at_step(patch, 11, lambda: os.kill(os.getpid(), number))
        with pytest.raises(StoppedOnRequest, match=rf"{number.name} after step 11") as stopped:
            train(job)
    assert stopped.value.exit_code == 128 + number
    resumed = trained(job)
    assert resumed["resumed_from"] == "checkpoint-11"
    assert trace(resumed) == trace(whole)
    assert resumed["validation_history"] == whole["validation_history"]


_TRAIN = """
import sys
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop.run import train
train(TrainingJob.model_validate_json(sys.stdin.read()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_process_loses_nothing_that_was_saved(
    job: TrainingJob, whole: dict[str, Any]
) -> None:
    process = subprocess.Popen([sys.executable, "-c", _TRAIN], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(job.model_dump_json())
    process.stdin.close()
    deadline = time.monotonic() + 60
    while len(complete_checkpoints(unfinished(job))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, "it must not end before it is killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    resumed = trained(job)
    assert resumed["resumed_from"] is not None
    assert trace(resumed) == trace(whole)
