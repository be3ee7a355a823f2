"""One run in several processes, started by torchrun; on the CPU they talk through gloo.

``test_layerwise_runs.py`` has a run of two processes that goes to its end.
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
    change,
    losses,
    make_job,
    row,
    save_rows,
    trained,
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
    complete_checkpoints,
    run_path,
)
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.launch import launcher, worker
from the_block_llm.pipelines.qlora_train.launch.launcher import outcome_of, train_in_processes
from the_block_llm.pipelines.qlora_train.runtime import distributed


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of the job in one process."""
    return trained(make_job(base, tmp_path_factory.mktemp("alone"), dropout=0.0))


@pytest.mark.slow
def test_sharded_layers_learn_what_whole_ones_do(
    job: TrainingJob, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sharded = change(
        job, dropout=0.0, n_processes=4, limits=MemoryLimits(layers="sharded"), max_steps=8
    )
    # Three validation rows: one of the four processes has none.
    validation = save_rows(tmp_path / "three", [row(TEXT[i:]) for i in (3, 5, 7)])
    sharded = change(sharded, validation_folder=validation)
    whole = trained(change(sharded, n_processes=1, limits=MemoryLimits()))
    with caplog.at_level("INFO"):
        outcome = train_in_processes(sharded)
    said = re.search(r"keeps ([\d,]+) of the ([\d,]+) bytes", caplog.text)
    assert said is not None
    kept, every = (int(number.replace(",", "")) for number in said.groups())
    assert 0 < kept <= every / 4
    assert outcome.metrics["n_processes"] == 4
    assert losses(outcome.metrics) == pytest.approx(losses(whole), rel=1e-4)
    assert [v["loss"] for v in outcome.metrics["validation_history"]] == pytest.approx(
        [v["loss"] for v in whole["validation_history"]], rel=1e-4
    )
    assert (outcome.adapter_folder / "manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_one_process_goes_on_where_two_with_sharded_layers_were_stopped(
    job: TrainingJob, alone: dict[str, Any]
) -> None:
    _interrupt_after_a_checkpoint(job)
    with pytest.raises(StoppedOnRequest):
        train_in_processes(
            change(job, dropout=0.0, n_processes=2, limits=MemoryLimits(layers="sharded"))
        )
    resumed = trained(change(job, dropout=0.0))
    assert resumed["resumed_from"] is not None
    assert losses(resumed) == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.slow
def test_two_machines_train_a_written_job_and_the_run_here_takes_its_adapter(
    job: TrainingJob, alone: dict[str, Any], tmp_path: Path
) -> None:
    job = change(job, dropout=0.0)
    folder = tmp_path / "job"
    folder.mkdir()
    written = change(job, n_processes=2)
    (folder / launcher.JOB_FILE).write_text(written.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet_at = f"127.0.0.1:{free.getsockname()[1]}"
    programs = Path(sys.executable).parent
    environment = {
        **os.environ, "MACHINES": "2", "GPUS": "1", "MEET_AT": meet_at,
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
    # One process, as on a machine without a GPU: there is nothing left to train.
    outcome = train_in_processes(job)
    assert outcome.metrics["n_processes"] == 2
    assert losses(outcome.metrics) == pytest.approx(losses(alone), rel=1e-4)


_TRAIN = """
import sys
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.launch.launcher import train_in_processes
train_in_processes(TrainingJob.model_validate_json(sys.stdin.read()))
"""


def _wait_for_a_checkpoint(job: TrainingJob) -> None:
    deadline = time.monotonic() + 90
    while not complete_checkpoints(run_path(job)):
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)


def _interrupt_after_a_checkpoint(job: TrainingJob) -> None:
    """Ask this process to stop, from beside, once the run has something to go on from."""

    def interrupt() -> None:
        _wait_for_a_checkpoint(job)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_reaches_all_processes_and_nothing_is_lost(
    job: TrainingJob, alone: dict[str, Any]
) -> None:
    _interrupt_after_a_checkpoint(job)
    with pytest.raises(StoppedOnRequest, match="Stopped by SIGTERM after step") as stopped:
        train_in_processes(change(job, dropout=0.0, n_processes=2))
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    # One process goes on where two were stopped; the losses of both parts are those of one.
    resumed = trained(change(job, dropout=0.0))
    assert int(resumed["resumed_from"].rpartition("-")[2]) >= 2
    assert losses(resumed) == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_processes_end_with_the_one_that_started_them(
    job: TrainingJob, alone: dict[str, Any]
) -> None:
    process = subprocess.Popen([sys.executable, "-c", _TRAIN], stdin=subprocess.PIPE, text=True)
    process.stdin.write(change(job, dropout=0.0, n_processes=2).model_dump_json())  # type: ignore[union-attr]
    process.stdin.close()  # type: ignore[union-attr]
    _wait_for_a_checkpoint(job)
    process.kill()
    process.wait()
    # The folder is free once the workers are gone.
    resumed = _once_free(change(job, dropout=0.0), time.monotonic() + 60)
    assert resumed["resumed_from"] is not None
    assert losses(resumed) == pytest.approx(losses(alone), rel=1e-4)


def _once_free(job: TrainingJob, deadline: float) -> dict[str, Any]:
    while time.monotonic() < deadline:
        try:
            return trained(job)
        except TrainingError as error:
            if "Another process is training" not in str(error):
                raise
            time.sleep(0.2)
    pytest.fail("the workers did not end with the process that started them")


@pytest.mark.parametrize(
    ("failures", "kind", "message"),
    [
        ([("AdapterTargetError", "c_attn matches no layer")], AdapterTargetError, "c_attn"),
        # The others fail for want of their partner; what it ran out of is the cause.
        (
            [("TrainingError", "peer left"), ("WorkerOutOfMemoryError", "out of memory")],
            WorkerOutOfMemoryError,
            "out of memory",
        ),
        ([], TrainingError, "exit code 3 .*last line"),
    ],
)
def test_an_error_in_a_process_is_the_same_error_here(
    tmp_path: Path, failures: list[tuple[str, str]], kind: type[Exception], message: str
) -> None:
    for rank, (name, text) in enumerate(failures):
        failure = json.dumps({"kind": name, "message": text})
        (tmp_path / f"failure-{rank}.json").write_text(failure)
    with pytest.raises(kind, match=message):
        outcome_of(tmp_path, None, 3, ["first line", "last line"])


def test_an_error_nobody_foresaw_says_what_it_was_and_where(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(job: TrainingJob, **options: Any) -> None:
        raise ValueError("the driver is too old")

    monkeypatch.setattr(worker, "train", train)
    # The first of several writes to standard output from now on, for the tests that follow too.
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    (tmp_path / launcher.JOB_FILE).write_text(job.model_dump_json())
    assert worker.main(tmp_path, ends_with_parent=False) == 1
    said = r"ValueError: the driver is too old \(test_launcher.py, line \d+\)"
    with pytest.raises(TrainingError, match=said):
        outcome_of(tmp_path, None, 1, ["torchrun's own words"])


def test_the_first_failure_is_the_cause(tmp_path: Path) -> None:
    for rank, (text, at) in enumerate([("peer closed connection", 20), ("no such layer", 10)]):
        path = tmp_path / f"failure-{rank}.json"
        path.write_text(json.dumps({"kind": "TrainingError", "message": text}))
        os.utime(path, (at, at))
    with pytest.raises(TrainingError, match="no such layer"):
        outcome_of(tmp_path, None, 1, [])


def test_memory_that_runs_out_in_a_process_halves_the_rows_of_all(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def launch(job: TrainingJob) -> None:
        tried.append(job.values.micro_batch_rows)
        raise WorkerOutOfMemoryError("Out of memory: rank 1.")

    monkeypatch.setattr(launcher, "_launch", launch)
    with pytest.raises(TrainingError, match="Not even one row at a time"):
        train_in_processes(change(job, micro_batch_rows=4, effective_batch_rows=8, n_processes=2))
    assert tried == [4, 2, 1]


def test_what_the_memory_plan_chose_is_what_is_halved(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[int | None] = []
    used = iter([8, 2, 1])

    def launch(job: TrainingJob) -> None:
        allowed.append(job.limits.micro_batch_rows)
        raise WorkerOutOfMemoryError("Out of memory: rank 1.", rows=next(used))

    monkeypatch.setattr(launcher, "_launch", launch)
    with pytest.raises(TrainingError, match="Not even one row at a time"):
        train_in_processes(change(job, effective_batch_rows=16, n_processes=2))
    # Half of what was in use, whatever the profile's own number is.
    assert allowed == [None, 4, 1]


def test_the_effective_batch_must_be_shared_out_evenly(job: TrainingJob) -> None:
    with pytest.raises(ParameterError, match="3 processes do not divide.* 4 rows"):
        train_in_processes(change(job, n_processes=3))
