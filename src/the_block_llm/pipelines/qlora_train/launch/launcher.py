"""One training run shared by several processes, which torchrun starts and watches.

Kedro stays in this process. The others run :mod:`the_block_llm.pipelines.qlora_train.launch.worker`
with the job in a file, and tell what they do as lines of JSON.
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
from the_block_llm.pipelines.qlora_train.loop.run import (
    TrainingOutcome,
    train,
)
from the_block_llm.pipelines.qlora_train.runtime.signals import stop_on_signals
from the_block_llm.progress import ProgressBar, progress_bar

_log = logging.getLogger(__name__)
WORKER: Final = "the_block_llm.pipelines.qlora_train.launch.worker"
OUTCOME_FILE: Final = "outcome.json"
ENDS_WITH_PARENT: Final = "--ends-with-parent"


def train_in_processes(job: TrainingJob) -> TrainingOutcome:
    """Train in as many processes as the job asks for; one is this process itself.

    Raises:
        BlockError: As :func:`~the_block_llm.pipelines.qlora_train.loop.run.train` does.
        ParameterError: The effective batch cannot be shared out.
    """
    if job.n_processes == 1:
        return train(job)
    job.rows_of_each(job.n_processes)  # refuse now what no worker could share out
    while True:
        try:
            return _launch(job)
        except WorkerOutOfMemoryError as error:
            rows = error.rows or job.values.micro_batch_rows
            if rows == 1:
                raise TrainingError(f"{error} Not even one row at a time fits.") from error
            _log.warning("%s Going on from the last checkpoint with %d rows.", error, rows // 2)
            fewer = {"micro_batch_rows": rows // 2}
            job = job.model_copy(
                update={
                    "values": job.values.model_copy(update=fewer),
                    # The memory plan, which takes what it thinks fits, obeys this one.
                    "limits": job.limits.model_copy(update=fewer),
                    # What was discarded once must not be discarded again.
                    "restart_training": False,
                }
            )


def _launch(job: TrainingJob) -> TrainingOutcome:
    with tempfile.TemporaryDirectory(prefix="the_block_llm-") as name, stop_on_signals() as request:
        folder = Path(name)
        (folder / JOB_FILE).write_text(job.model_dump_json(), encoding="utf-8")
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={job.n_processes}", "--module", WORKER, str(folder),
            ENDS_WITH_PARENT,
        ]  # fmt: skip
        cores = os.cpu_count() or 1
        process = subprocess.Popen(
            command,
            # torchrun would leave each of several processes a single thread.
            env={"OMP_NUM_THREADS": str(max(1, cores // job.n_processes)), **os.environ},
            # The workers end when this pipe closes, however this process ends.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            # A Ctrl-C reaches this process, which passes it on once.
            start_new_session=True,
        )
        last_words: deque[str] = deque(maxlen=20)
        reader = threading.Thread(target=last_words.extend, args=(process.stderr,), daemon=True)
        reader.start()
        stopper = threading.Thread(
            target=_pass_on, args=(process, lambda: request.signal), daemon=True
        )
        stopper.start()
        try:
            assert process.stdout is not None  # noqa: S101  # asked for above
            with progress_bar("training") as bar:
                _follow(process.stdout, bar)
            process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        reader.join(timeout=5)
        return outcome_of(folder, request.signal, process.returncode, last_words)


def _pass_on(process: "subprocess.Popen[str]", asked: Callable[[], signal.Signals | None]) -> None:
    """Send the workers on their way once this process is asked to stop."""
    while process.poll() is None:
        if asked() is not None:
            process.send_signal(signal.SIGTERM)
            return
        threading.Event().wait(0.2)


def _follow(lines: Iterable[str], bar: ProgressBar) -> None:
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


def outcome_of(
    folder: Path, asked: signal.Signals | None, returncode: int, last_words: Iterable[str]
) -> TrainingOutcome:
    """What the workers left in ``folder``: their result, or the error that ended them.

    Raises:
        StoppedOnRequest: They were ``asked`` to end, by this signal.
        BlockError: One of them failed, as it says.
        TrainingError: They ended without a word.
    """
    finished = folder / OUTCOME_FILE
    if finished.is_file():
        return TrainingOutcome.model_validate_json(finished.read_text(encoding="utf-8"))
    # The first one is the cause: the others then fail for want of their partner.
    failures = sorted(folder.glob("failure-*.json"), key=lambda path: path.stat().st_mtime_ns)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in failures]
    # Memory before all: its end is told late.
    found.sort(key=lambda failure: failure["kind"] != WorkerOutOfMemoryError.__name__)
    if found and not (asked and found[0]["kind"] != StoppedOnRequest.__name__):
        raise _as_error(found[0])
    if asked is not None:
        raise StoppedOnRequest(
            f"Stopped by {asked.name}. Everything up to the last checkpoint is kept; the same "
            "command goes on from it.",
            exit_code=128 + asked,
        )
    said = " ".join(line.strip() for line in list(last_words)[-3:])
    raise TrainingError(
        f"A training process ended with exit code {returncode} ({said}). The last checkpoint is "
        "kept; the same command goes on from it."
    )


def _as_error(failure: dict[str, Any]) -> BlockError:
    if failure["kind"] == WorkerOutOfMemoryError.__name__:
        return WorkerOutOfMemoryError(failure["message"], failure.get("rows"))
    if failure["kind"] == StoppedOnRequest.__name__:
        return StoppedOnRequest(failure["message"], failure["exit_code"])
    kind = getattr(errors, failure["kind"], TrainingError)
    return kind(failure["message"])
