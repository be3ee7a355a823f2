"""One run in several processes, started by torchrun; on the CPU they talk through gloo."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.pipelines.qlora_train.jobs import change, losses, make_job, trained

from the_block_llm.errors import AdapterTargetError, ParameterError, TrainingError
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.processes import train_in_processes
from the_block_llm.pipelines.qlora_train.run_folder import complete_checkpoints


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of the job in one process."""
    return trained(make_job(base, tmp_path_factory.mktemp("alone"), dropout=0.0))


@pytest.mark.slow
def test_two_processes_learn_what_one_does(job: TrainingJob, alone: dict[str, Any]) -> None:
    outcome = train_in_processes(change(job, dropout=0.0, n_processes=2))
    metrics = outcome.metrics
    assert metrics["n_processes"] == 2
    assert losses(metrics) == pytest.approx(losses(alone), rel=1e-4)
    assert [v["loss"] for v in metrics["validation_history"]] == pytest.approx(
        [v["loss"] for v in alone["validation_history"]], rel=1e-4
    )
    assert (outcome.adapter_folder / "manifest.json").is_file()


_TRAIN = """
import sys
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.processes import train_in_processes
from the_block_llm.pipelines.qlora_train.stopping import StoppedOnRequest
try:
    train_in_processes(TrainingJob.model_validate_json(sys.stdin.read()))
except StoppedOnRequest as stopped:
    print(stopped)
    sys.exit(stopped.exit_code)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_end_with_the_one_that_started_them_and_lose_nothing(
    job: TrainingJob, alone: dict[str, Any], number: signal.Signals
) -> None:
    shared = change(job, dropout=0.0, n_processes=2)
    process = subprocess.Popen(
        [sys.executable, "-c", _TRAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(shared.model_dump_json())
    process.stdin.close()
    process.stdin = None
    unfinished = job.work_folder / "tiny/.unfinished"
    deadline = time.monotonic() + 90
    while not complete_checkpoints(unfinished) and time.monotonic() < deadline:
        assert process.poll() is None, "it must not end before it is stopped"
        time.sleep(0.01)
    process.send_signal(number)
    said, _ = process.communicate(timeout=90)
    if number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert "Stopped by SIGTERM after step" in said
    # The lock is free once the workers are gone; then one process goes on alone.
    resumed = _once_free(change(job, dropout=0.0), deadline)
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


@pytest.mark.slow
def test_an_error_in_a_process_is_the_same_error_here(job: TrainingJob) -> None:
    lora = job.profile.lora.model_copy(update={"target_modules": ("c_attn",)})
    wrong = job.profile.model_copy(update={"lora": lora})
    with pytest.raises(AdapterTargetError, match=r"c_attn.*match no layer.*q_proj"):
        train_in_processes(job.model_copy(update={"profile": wrong, "n_processes": 2}))


def test_the_effective_batch_must_be_shared_out_evenly(job: TrainingJob) -> None:
    with pytest.raises(ParameterError, match="n_processes 3 does not divide.* 4 rows"):
        train_in_processes(change(job, n_processes=3))
