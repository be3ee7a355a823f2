"""Interrupted runs resume without losing steps or changing losses."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.builders.damage import FAULTS, damage_file
from tests.pipelines.qlora_train.interruption import Killed, call_after_step, kill_after_step
from tests.pipelines.qlora_train.jobs import (
    TEXT,
    losses,
    make_job,
    replace_fields,
    row,
    save_rows,
    step_trace,
    train_for_metrics,
)

from the_block_llm.errors import StoppedOnRequest, StorageError, TrainingError
from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import list_complete_checkpoints
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop import train_run
from the_block_llm.pipelines.qlora_train.loop.train_run import train


@pytest.fixture(scope="module")
def uninterrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Metrics of the job, trained without interruption."""
    return train_for_metrics(make_job(base, tmp_path_factory.mktemp("uninterrupted")))


def unfinished(job: TrainingJob) -> Path:
    return job.work_folder / job.profile.name / ".unfinished"


def test_interrupted_run_resumes_with_identical_losses(
    job: TrainingJob, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between two checkpoints; each new best is saved as well.
    kill_after_step(monkeypatch, 11, job)
    resumed = train_for_metrics(job)
    assert resumed["resumed_from"] == "checkpoint-10"
    assert step_trace(resumed) == step_trace(uninterrupted)
    assert resumed["validation_history"] == uninterrupted["validation_history"]


def test_damaged_checkpoint_is_skipped_for_the_previous_one(
    job: TrainingJob,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kill_after_step(monkeypatch, 11, job)
    weights = unfinished(job) / "checkpoint-10/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    caplog.set_level("WARNING")
    resumed = train_for_metrics(job)
    assert "checkpoint-10 is incomplete or damaged" in caplog.text
    assert resumed["resumed_from"] == "checkpoint-8"
    assert step_trace(resumed) == step_trace(uninterrupted)


def test_no_damaged_file_of_a_checkpoint_is_overlooked(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short = replace_fields(job, max_steps=4)
    kill_after_step(monkeypatch, 3, short)
    checkpoint = unfinished(short) / "checkpoint-2"
    names = sorted(path.name for path in checkpoint.iterdir())
    assert {"optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"} <= set(names)
    for seed, (name, fault) in enumerate(itertools.product(names, FAULTS)):
        copy = tmp_path / f"{fault} {name}"
        shutil.copytree(checkpoint, copy / "checkpoint-2")
        assert len(list_complete_checkpoints(copy)) == 1
        damage_file(copy / "checkpoint-2" / name, fault, random.Random(seed))
        assert not list_complete_checkpoints(copy), copy
    # The state beside the checkpoints has settings and answers, which must not change unnoticed.
    state = (unfinished(short) / "run.json").read_bytes()
    for fault in FAULTS:
        (unfinished(short) / "run.json").write_bytes(state)
        damage_file(unfinished(short) / "run.json", fault, random.Random(0))
        with pytest.raises(TrainingError, match=r"settings cannot be read.*restart_training=true"):
            train(short)


def test_full_disk_raises_storage_error_and_keeps_last_checkpoint(
    job: TrainingJob, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_disk() -> None:
        # Every write to this device fails with ENOSPC.
        folder = unfinished(job) / "checkpoint-12"
        folder.mkdir()
        (folder / "optimizer.pt").symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        call_after_step(patch, 12, fill_disk)
        with pytest.raises(StorageError, match=r"step 12 could not be written.*checkpoint-10 is"):
            train(job)
    assert [c.name for c in list_complete_checkpoints(unfinished(job))][-1] == "checkpoint-10"
    assert step_trace(train_for_metrics(job)) == step_trace(uninterrupted)


def test_changed_settings_are_named_and_rejected_unless_restarting(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_after_step(monkeypatch, 5, job)
    with pytest.raises(TrainingError, match=r"at step 4.*values.learning_rate 0.005 → 0.004"):
        train(replace_fields(job, learning_rate=4e-3))
    restarted = train_for_metrics(replace_fields(job, learning_rate=4e-3, restart_training=True))
    assert (restarted["resumed_from"], restarted["steps_done"]) == (None, 16)


def test_changed_rows_are_rejected_but_identical_rewritten_rows_resume(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace_fields(job, max_steps=6)
    kill_after_step(monkeypatch, 5, short)
    rows = [row("something else")]
    before = short.train_folder
    other = short.model_copy(update={"train_folder": save_rows(before.with_name("other"), rows)})
    with pytest.raises(TrainingError, match="changed since: the train rows"):
        train(other)
    from the_block_llm.datasets.parquet_table import ParquetTable

    same = list(ParquetTable(before).rows())
    assert (
        train_for_metrics(
            short.model_copy(update={"train_folder": save_rows(before.with_name("same"), same)})
        )["resumed_from"]
        == "checkpoint-4"
    )


def test_settings_that_do_not_affect_the_result_may_change_on_resume(
    job: TrainingJob, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_after_step(monkeypatch, 5, job)
    assert losses(
        train_for_metrics(replace_fields(job, checkpoints_kept=1, save_steps=3))
    ) == losses(uninterrupted)


def test_old_checkpoints_are_pruned_except_the_best(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Unlike the training rows, so that the validation loss is lowest early on.
    save_rows(job.validation_folder, [row("0123456789 =+* zyxwv %&!? 9876543210")])
    worsening = replace_fields(job, learning_rate=2e-2, checkpoints_kept=2)
    best = train_for_metrics(worsening)["best_step"]
    kill_after_step(monkeypatch, 15, worsening)
    steps = [int(c.name.rpartition("-")[2]) for c in list_complete_checkpoints(unfinished(job))]
    assert steps == sorted({best, 12, 14})


def test_concurrent_run_of_the_same_profile_is_rejected(job: TrainingJob) -> None:
    from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import open_run

    open_folder = open_run(job)
    with pytest.raises(TrainingError, match="Another process is training tiny"):
        train(job)
    open_folder.close()


def test_run_killed_before_saving_the_adapter_resumes_without_training(
    job: TrainingJob, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train_run, "save_adapter", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(job)
    resumed = train_for_metrics(job)
    assert resumed["resumed_from"] == "checkpoint-16"
    assert step_trace(resumed) == step_trace(uninterrupted)
    assert resumed["validation_loss_after"] == uninterrupted["validation_loss_after"]


def test_early_stopped_run_killed_before_saving_is_not_trained_further(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_rows(job.validation_folder, [row("0123456789 =+* zyxwv %&!? 9876543210")])
    impatient = replace_fields(job, learning_rate=2e-2, early_stopping_patience=1)
    uninterrupted = train_for_metrics(impatient)
    assert uninterrupted["stopped_early"]
    with monkeypatch.context() as patch:
        patch.setattr(train_run, "save_adapter", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(impatient)
    resumed = train_for_metrics(impatient)
    assert resumed["stopped_early"]
    assert step_trace(resumed) == step_trace(uninterrupted)
    assert resumed["best_step"] == uninterrupted["best_step"]


def test_missing_best_checkpoint_falls_back_to_the_next_best(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_rows(job.validation_folder, [row("0123456789 =+* zyxwv %&!? 9876543210")])
    worsening = replace_fields(job, learning_rate=2e-2)
    uninterrupted = train_for_metrics(worsening)
    kill_after_step(monkeypatch, 15, worsening)
    shutil.rmtree(unfinished(job) / f"checkpoint-{uninterrupted['best_step']}")
    caplog.set_level("WARNING")
    resumed = train_for_metrics(worsening)
    assert f"best checkpoint, of step {uninterrupted['best_step']}, is missing" in caplog.text
    assert losses(resumed) == losses(uninterrupted)
    assert resumed["validation_loss_after"] > uninterrupted["validation_loss_after"]


def raise_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, call: int, error: Exception, more_than_rows: int
) -> None:
    """Raise ``error`` from the ``call``-th micro-batch on, if it has more rows than given."""
    from the_block_llm.pipelines.qlora_train.loop.trainer import QloraTrainer

    original = QloraTrainer.training_step
    calls = [0]

    def training_step(self: Any, model: Any, inputs: Any, *args: Any) -> torch.Tensor:
        calls[0] += 1
        # Raised after the backward pass, so that gradients of this step exist.
        loss = original(self, model, inputs, *args)
        if calls[0] >= call and inputs["input_ids"].shape[0] > more_than_rows:
            raise error
        return loss

    monkeypatch.setattr(QloraTrainer, "training_step", training_step)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (1, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
        (14, RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")),
    ],
)
def test_out_of_memory_halves_the_micro_batch_with_the_same_losses(
    job: TrainingJob,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: int,
    error: Exception,
) -> None:
    large_micro_batch = replace_fields(job, dropout=0.0, micro_batch_rows=2, force_epochs=3)
    reference = train_for_metrics(large_micro_batch)
    caplog.set_level("WARNING")
    with monkeypatch.context() as patch:
        raise_out_of_memory(patch, call, error, more_than_rows=1)
        tight = train_for_metrics(large_micro_batch)
    # Two micro-batches per step: the fourteenth call is in the seventh step.
    step = 0 if call == 1 else 6
    assert tight["out_of_memory"] == [{"step": step, "went_on_with_rows": 1}]
    assert tight["micro_batch_rows"] == 1
    assert f"Out of memory after step {step} with micro-batches of 2 rows" in caplog.text
    assert losses(tight) == pytest.approx(losses(reference), rel=1e-4)
    assert tight["steps_done"] == 12


def test_out_of_memory_with_one_row_names_the_remedy(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_out_of_memory(monkeypatch, 1, torch.OutOfMemoryError("CUDA out of memory"), 0)
    with pytest.raises(TrainingError, match=r"single row of up to 70 tokens.*context_tokens"):
        train(replace_fields(job, micro_batch_rows=2))


def test_other_runtime_errors_are_not_treated_as_out_of_memory(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_out_of_memory(monkeypatch, 1, RuntimeError("CUDA error: device-side assert"), 0)
    with pytest.raises(RuntimeError, match="device-side"):
        train(job)


def test_curriculum_run_resumes_within_a_stage(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_rows(job.train_folder, [row(TEXT[i:], stage=1 + i // 8) for i in range(16)])
    staged = replace_fields(job, force_epochs=2)
    uninterrupted = train_for_metrics(staged)
    kill_after_step(monkeypatch, 7, staged)
    resumed = train_for_metrics(staged)
    assert resumed["resumed_from"] == "checkpoint-6"
    assert step_trace(resumed) == step_trace(uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_run_after_its_step_with_a_checkpoint(
    job: TrainingJob,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    with monkeypatch.context() as patch:
        # Between two checkpoints and two validations.
        call_after_step(patch, 11, lambda: os.kill(os.getpid(), number))
        with pytest.raises(StoppedOnRequest, match=rf"{number.name} after step 11") as stopped:
            train(job)
    assert stopped.value.exit_code == 128 + number
    resumed = train_for_metrics(job)
    assert resumed["resumed_from"] == "checkpoint-11"
    assert step_trace(resumed) == step_trace(uninterrupted)
    assert resumed["validation_history"] == uninterrupted["validation_history"]


_TRAIN = """
import sys
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop.train_run import train
train(TrainingJob.model_validate_json(sys.stdin.read()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_process_resumes_from_its_last_checkpoint(
    job: TrainingJob, uninterrupted: dict[str, Any]
) -> None:
    process = subprocess.Popen([sys.executable, "-c", _TRAIN], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(job.model_dump_json())
    process.stdin.close()
    deadline = time.monotonic() + 60
    while len(list_complete_checkpoints(unfinished(job))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, "the process ended before it was killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    resumed = train_for_metrics(job)
    assert resumed["resumed_from"] is not None
    assert step_trace(resumed) == step_trace(uninterrupted)
