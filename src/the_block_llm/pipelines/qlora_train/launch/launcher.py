"""Starts a run of several processes with torchrun, and reports their progress and outcome.

The workers run :mod:`the_block_llm.pipelines.qlora_train.launch.worker`, which does not import
Kedro. They read the job from a file and write progress and log records as lines of JSON.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from the_block_llm import errors
from the_block_llm.errors import (
    BlockError,
    StoppedOnRequest,
    TrainingError,
    WorkerOutOfMemoryError,
)
from the_block_llm.pipelines.qlora_train.job import JOB_FILE, TrainingJob
from the_block_llm.pipelines.qlora_train.loop.train_run import (
    TrainingOutcome,
    train,
)
from the_block_llm.pipelines.qlora_train.runtime.signals import stop_on_signals
from the_block_llm.progress import ProgressBar, progress_bar

_log = logging.getLogger(__name__)
WORKER_MODULE: Final = "the_block_llm.pipelines.qlora_train.launch.worker"
OUTCOME_FILE: Final = "outcome.json"
STOP_WITH_PARENT_OPTION: Final = "--ends-with-parent"


def train_distributed(job: TrainingJob) -> TrainingOutcome:
    """Train in ``job.n_processes`` processes; a single one is this process.

    If a process runs out of memory, all restart from the last checkpoint with half the rows.

    Raises:
        BlockError: As :func:`~the_block_llm.pipelines.qlora_train.loop.train_run.train` does.
        ParameterError: The number of processes does not divide the effective batch.
    """
    if job.n_processes == 1:
        return train(job)
    job.rows_per_process(job.n_processes)  # fail before any worker starts
    while True:
        try:
            return _launch(job)
        except WorkerOutOfMemoryError as error:
            rows = error.rows or job.values.micro_batch_rows
            if rows == 1:
                raise TrainingError(f"{error} Not even a single row fits.") from error
            _log.warning("%s Resuming from the last checkpoint with %d rows.", error, rows // 2)
            reduced = {"micro_batch_rows": rows // 2}
            job = job.model_copy(
                update={
                    "values": job.values.model_copy(update=reduced),
                    # Limits the memory plan, which would otherwise choose the same rows again.
                    "limits": job.limits.model_copy(update=reduced),
                    # Resume the run; do not discard it a second time.
                    "restart_training": False,
                }
            )


def _launch(job: TrainingJob) -> TrainingOutcome:
    with tempfile.TemporaryDirectory(prefix="the_block_llm-") as name, stop_on_signals() as request:
        folder = Path(name)
        (folder / JOB_FILE).write_text(job.model_dump_json(), encoding="utf-8")
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={job.n_processes}", "--module", WORKER_MODULE, str(folder),
            STOP_WITH_PARENT_OPTION,
        ]  # fmt: skip
        cores = os.cpu_count() or 1
        process = subprocess.Popen(
            command,
            # By default torchrun sets one thread per process.
            env={"OMP_NUM_THREADS": str(max(1, cores // job.n_processes)), **os.environ},
            # The workers stop when this pipe closes, even if this process is killed.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C reaches only this process, which forwards it once.
            start_new_session=True,
        )
        stderr_tail: deque[str] = deque(maxlen=20)
        reader = threading.Thread(target=stderr_tail.extend, args=(process.stderr,), daemon=True)
        reader.start()
        stopper = threading.Thread(
            target=_forward_stop, args=(process, lambda: request.signal), daemon=True
        )
        stopper.start()
        try:
            assert process.stdout is not None  # noqa: S101  # stdout=PIPE
            with progress_bar("training") as bar:
                _relay_messages(process.stdout, bar)
            process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        reader.join(timeout=5)
        return read_outcome(folder, request.signal, process.returncode, stderr_tail)


def _forward_stop(
    process: "subprocess.Popen[str]", received_signal: Callable[[], signal.Signals | None]
) -> None:
    """Send SIGTERM to the workers once this process has received a stop signal."""
    while process.poll() is None:
        if received_signal() is not None:
            process.send_signal(signal.SIGTERM)
            return
        threading.Event().wait(0.2)


def _relay_messages(lines: Iterable[str], bar: ProgressBar) -> None:
    for line in lines:
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError:
            _log.debug("%s", line.rstrip(), extra={"markup": False})
            continue
        if "total" in message:
            bar.set_total(message["total"])
        elif "advance" in message:
            bar.advance(message["advance"], message["note"])
        elif "log" in message:
            _log.log(message["level"], "%s", message["log"], extra={"markup": False})


def read_outcome(
    folder: Path,
    received_signal: signal.Signals | None,
    returncode: int,
    stderr_tail: Iterable[str],
) -> TrainingOutcome:
    """Return the outcome that the workers wrote to ``folder``, or raise their error.

    Args:
        folder: The job folder.
        received_signal: The stop signal that was forwarded to the workers, if any.
        returncode: Exit code of torchrun.
        stderr_tail: Last lines that torchrun and the workers wrote to standard error.

    Raises:
        StoppedOnRequest: A signal stopped the run.
        BlockError: The error of the worker that failed first.
        TrainingError: The workers ended without reporting an error.
    """
    outcome_file = folder / OUTCOME_FILE
    if outcome_file.is_file():
        return TrainingOutcome.model_validate_json(outcome_file.read_text(encoding="utf-8"))
    # The oldest failure is the cause; the other workers fail because their peer is gone.
    paths = sorted(folder.glob("failure-*.json"), key=lambda path: path.stat().st_mtime_ns)
    failures = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    # Except out of memory, which is reported late: it is always the cause.
    failures.sort(key=lambda failure: failure["kind"] != WorkerOutOfMemoryError.__name__)
    if failures and not (received_signal and failures[0]["kind"] != StoppedOnRequest.__name__):
        raise _to_error(failures[0])
    if received_signal is not None:
        raise StoppedOnRequest(
            f"Stopped by {received_signal.name}. The last checkpoint is kept; run the same command "
            "to resume from it.",
            exit_code=128 + received_signal,
        )
    last_lines = " ".join(line.strip() for line in list(stderr_tail)[-3:])
    raise TrainingError(
        f"A training process ended with exit code {returncode} ({last_lines}). The last "
        "checkpoint is kept; run the same command to resume from it."
    )


def _to_error(failure: dict[str, Any]) -> BlockError:
    if failure["kind"] == WorkerOutOfMemoryError.__name__:
        return WorkerOutOfMemoryError(failure["message"], failure.get("rows"))
    if failure["kind"] == StoppedOnRequest.__name__:
        return StoppedOnRequest(failure["message"], failure["exit_code"])
    error_type = getattr(errors, failure["kind"], TrainingError)
    return error_type(failure["message"])
