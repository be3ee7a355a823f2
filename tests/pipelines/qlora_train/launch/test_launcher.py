"""Runs of several processes, started by torchrun, on the CPU with the gloo backend.

``test_layerwise_runs.py`` has a complete run of two processes.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.pipelines.qlora_train.jobs import (
    TEXT,
    losses,
    make_job,
    replace_fields,
    row,
    save_rows,
    train_for_metrics,
)

from the_block_llm.errors import (
    AdapterTargetError,
    ParameterError,
    StoppedOnRequest,
    TrainingError,
    WorkerOutOfMemoryError,
)
from the_block_llm.models.resource_limits import MemoryLimits
from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import (
    list_complete_checkpoints,
    unfinished_run_path,
)
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.launch import launcher, worker
from the_block_llm.pipelines.qlora_train.launch.launcher import read_outcome, train_distributed
from the_block_llm.pipelines.qlora_train.runtime import distributed


@pytest.fixture(scope="module")
def single_process(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Metrics of the job in a single process."""
    return train_for_metrics(make_job(base, tmp_path_factory.mktemp("single_process"), dropout=0.0))


@pytest.mark.slow
def test_sharded_training_matches_unsharded_losses(
    job: TrainingJob, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sharded = replace_fields(
        job, dropout=0.0, n_processes=4, limits=MemoryLimits(layers="sharded"), max_steps=8
    )
    # Three validation rows: one of the four processes has none.
    validation = save_rows(tmp_path / "three", [row(TEXT[i:]) for i in (3, 5, 7)])
    sharded = replace_fields(sharded, validation_folder=validation)
    unsharded = train_for_metrics(replace_fields(sharded, n_processes=1, limits=MemoryLimits()))
    with caplog.at_level("INFO"):
        outcome = train_distributed(sharded)
    logged = re.search(r"stores ([\d,]+) of the ([\d,]+) bytes", caplog.text)
    assert logged is not None
    local_bytes, total_bytes = (int(number.replace(",", "")) for number in logged.groups())
    assert 0 < local_bytes <= total_bytes / 4
    assert outcome.metrics["n_processes"] == 4
    assert losses(outcome.metrics) == pytest.approx(losses(unsharded), rel=1e-4)
    assert [v["loss"] for v in outcome.metrics["validation_history"]] == pytest.approx(
        [v["loss"] for v in unsharded["validation_history"]], rel=1e-4
    )
    assert (outcome.adapter_folder / "manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_single_process_resumes_a_stopped_sharded_run(
    job: TrainingJob, single_process: dict[str, Any]
) -> None:
    _interrupt_after_first_checkpoint(job)
    with pytest.raises(StoppedOnRequest):
        train_distributed(
            replace_fields(job, dropout=0.0, n_processes=2, limits=MemoryLimits(layers="sharded"))
        )
    resumed = train_for_metrics(replace_fields(job, dropout=0.0))
    assert resumed["resumed_from"] is not None
    assert losses(resumed) == pytest.approx(losses(single_process), rel=1e-4)


@pytest.mark.slow
def test_two_nodes_train_a_job_file_and_a_local_run_uses_the_adapter(
    job: TrainingJob, single_process: dict[str, Any], tmp_path: Path
) -> None:
    job = replace_fields(job, dropout=0.0)
    folder = tmp_path / "job"
    folder.mkdir()
    written = replace_fields(job, n_processes=2)
    (folder / launcher.JOB_FILE).write_text(written.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rendezvous_endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    programs = Path(sys.executable).parent
    environment = {
        **os.environ, "MACHINES": "2", "GPUS": "1", "MEET_AT": rendezvous_endpoint,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    script = Path(__file__).resolve().parents[4] / "deploy" / "torchrun.sh"
    machines = [
        subprocess.Popen(
            ["bash", str(script), str(folder)], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [machine.wait(timeout=200) for machine in machines] == [0, 0]
    assert (folder / launcher.OUTCOME_FILE).is_file()
    # The local run finds the finished adapter and does not train.
    outcome = train_distributed(job)
    assert outcome.metrics["n_processes"] == 2
    assert losses(outcome.metrics) == pytest.approx(losses(single_process), rel=1e-4)


_TRAIN = """
import sys
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.launch.launcher import train_distributed
train_distributed(TrainingJob.model_validate_json(sys.stdin.read()))
"""


def _wait_for_checkpoint(job: TrainingJob) -> None:
    deadline = time.monotonic() + 90
    while not list_complete_checkpoints(unfinished_run_path(job)):
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)


def _interrupt_after_first_checkpoint(job: TrainingJob) -> None:
    """Send SIGTERM to this process from another thread, after the first checkpoint."""

    def interrupt() -> None:
        _wait_for_checkpoint(job)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_signal_stops_all_processes_with_a_checkpoint(
    job: TrainingJob, single_process: dict[str, Any]
) -> None:
    _interrupt_after_first_checkpoint(job)
    with pytest.raises(StoppedOnRequest, match="Stopped by SIGTERM after step") as stopped:
        train_distributed(replace_fields(job, dropout=0.0, n_processes=2))
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    # A single process resumes; both parts have the losses of a single-process run.
    resumed = train_for_metrics(replace_fields(job, dropout=0.0))
    assert int(resumed["resumed_from"].rpartition("-")[2]) >= 2
    assert losses(resumed) == pytest.approx(losses(single_process), rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_workers_stop_when_the_launcher_is_killed(
    job: TrainingJob, single_process: dict[str, Any]
) -> None:
    process = subprocess.Popen([sys.executable, "-c", _TRAIN], stdin=subprocess.PIPE, text=True)
    process.stdin.write(replace_fields(job, dropout=0.0, n_processes=2).model_dump_json())  # type: ignore[union-attr]
    process.stdin.close()  # type: ignore[union-attr]
    _wait_for_checkpoint(job)
    process.kill()
    process.wait()
    # The workers hold the lock until they have stopped.
    resumed = _train_once_unlocked(replace_fields(job, dropout=0.0), time.monotonic() + 60)
    assert resumed["resumed_from"] is not None
    assert losses(resumed) == pytest.approx(losses(single_process), rel=1e-4)


def _train_once_unlocked(job: TrainingJob, deadline: float) -> dict[str, Any]:
    while time.monotonic() < deadline:
        try:
            return train_for_metrics(job)
        except TrainingError as error:
            if "Another process is training" not in str(error):
                raise
            time.sleep(0.2)
    pytest.fail("the workers did not stop after the launcher was killed")


@pytest.mark.parametrize(
    ("failures", "kind", "message"),
    [
        ([("AdapterTargetError", "c_attn matches no layer")], AdapterTargetError, "c_attn"),
        # Out of memory is the cause, even if another worker reports its failure first.
        (
            [("TrainingError", "peer left"), ("WorkerOutOfMemoryError", "out of memory")],
            WorkerOutOfMemoryError,
            "out of memory",
        ),
        ([], TrainingError, "exit code 3 .*last line"),
    ],
)
def test_worker_error_is_raised_in_the_launcher(
    tmp_path: Path, failures: list[tuple[str, str]], kind: type[Exception], message: str
) -> None:
    for rank, (name, text) in enumerate(failures):
        failure = json.dumps({"kind": name, "message": text})
        (tmp_path / f"failure-{rank}.json").write_text(failure)
    with pytest.raises(kind, match=message):
        read_outcome(tmp_path, None, 3, ["first line", "last line"])


def test_unexpected_worker_error_reports_type_and_location(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(job: TrainingJob, **options: Any) -> None:
        raise ValueError("the driver is too old")

    monkeypatch.setattr(worker, "train", train)
    # Rank 0 would install a log handler that remains for later tests.
    monkeypatch.setattr(distributed, "is_main_process", lambda: False)
    (tmp_path / launcher.JOB_FILE).write_text(job.model_dump_json())
    assert worker.main(tmp_path, stop_with_parent=False) == 1
    message = r"ValueError: the driver is too old \(test_launcher.py, line \d+\)"
    with pytest.raises(TrainingError, match=message):
        read_outcome(tmp_path, None, 1, ["output of torchrun"])


def test_oldest_failure_is_reported(tmp_path: Path) -> None:
    for rank, (text, at) in enumerate([("peer closed connection", 20), ("no such layer", 10)]):
        path = tmp_path / f"failure-{rank}.json"
        path.write_text(json.dumps({"kind": "TrainingError", "message": text}))
        os.utime(path, (at, at))
    with pytest.raises(TrainingError, match="no such layer"):
        read_outcome(tmp_path, None, 1, [])


def test_out_of_memory_in_one_worker_halves_the_rows_of_all(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    def launch(job: TrainingJob) -> None:
        attempts.append(job.values.micro_batch_rows)
        raise WorkerOutOfMemoryError("Out of memory: rank 1.")

    monkeypatch.setattr(launcher, "_launch", launch)
    with pytest.raises(TrainingError, match="Not even a single row fits"):
        train_distributed(
            replace_fields(job, micro_batch_rows=4, effective_batch_rows=8, n_processes=2)
        )
    assert attempts == [4, 2, 1]


def test_rows_chosen_by_the_memory_plan_are_halved(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int | None] = []
    used_rows = iter([8, 2, 1])

    def launch(job: TrainingJob) -> None:
        limits.append(job.limits.micro_batch_rows)
        raise WorkerOutOfMemoryError("Out of memory: rank 1.", rows=next(used_rows))

    monkeypatch.setattr(launcher, "_launch", launch)
    with pytest.raises(TrainingError, match="Not even a single row fits"):
        train_distributed(replace_fields(job, effective_batch_rows=16, n_processes=2))
    # Half of the rows in use, regardless of the profile's value.
    assert limits == [None, 4, 1]


def test_number_of_processes_must_divide_the_effective_batch(job: TrainingJob) -> None:
    with pytest.raises(ParameterError, match="3 processes do not divide.* 4 rows"):
        train_distributed(replace_fields(job, n_processes=3))
