"""Entry point of one training process, started by torchrun on one or more machines.

``python -m torch.distributed.run --nproc-per-node=2 --module
the_block_llm.pipelines.qlora_train.launch.worker FOLDER`` reads ``FOLDER/job.json`` and writes
``FOLDER/outcome.json``. Rank 0 writes progress and log records to standard output, as lines of
JSON.
"""

import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from the_block_llm.errors import (
    StoppedOnRequest,
    TrainingError,
    WorkerOutOfMemoryError,
    user_error_cause,
)
from the_block_llm.files.durable_files import write_durably
from the_block_llm.pipelines.qlora_train.job import JOB_FILE, TrainingJob
from the_block_llm.pipelines.qlora_train.launch.launcher import (
    OUTCOME_FILE,
    STOP_WITH_PARENT_OPTION,
)
from the_block_llm.pipelines.qlora_train.loop.train_run import train
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import is_out_of_memory


def main(folder: Path, *, stop_with_parent: bool) -> int:
    """Train the job in ``folder`` together with the other processes.

    Args:
        folder: Folder with ``job.json``, shared by all machines.
        stop_with_parent: Stop when standard input closes. Not for batch systems, where it is
            closed from the start.

    Returns:
        The exit code.
    """
    if stop_with_parent:
        threading.Thread(target=_terminate_when_parent_exits, daemon=True).start()
    if distributed.is_main_process():
        logging.getLogger("the_block_llm").addHandler(_JsonLogHandler())
        logging.getLogger("the_block_llm").setLevel(logging.INFO)
    job = TrainingJob.model_validate_json((folder / JOB_FILE).read_text(encoding="utf-8"))
    try:
        outcome = train(job, show_progress=_json_progress)
    except StoppedOnRequest as error:
        _write_failure(folder, type(error).__name__, str(error), exit_code=error.exit_code)
        return 0
    except WorkerOutOfMemoryError as error:
        _write_failure(folder, type(error).__name__, str(error), rows=error.rows)
        return 1
    except Exception as error:  # noqa: BLE001  # reported to the launcher
        if (user_error := user_error_cause(error)) is not None:
            _write_failure(folder, type(user_error).__name__, str(user_error))
            return 1
        if is_out_of_memory(error):
            _write_failure(folder, WorkerOutOfMemoryError.__name__, f"Out of memory: {error}.")
            return 1
        # torchrun itself reports only the exit code.
        traceback.print_exc()
        _write_failure(folder, TrainingError.__name__, _describe_failure(error))
        return 1
    if distributed.is_main_process():
        write_durably(folder / OUTCOME_FILE, outcome.model_dump_json())
    distributed.destroy_process_group()
    return 0


def _describe_failure(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"A training process failed: {type(error).__name__}: {error} ({Path(frame.filename).name}, "
        f"line {frame.lineno}). The last checkpoint is kept; run the same command to resume from "
        "it."
    )


class _JsonProgress:
    def advance(self, steps: float = 1, note: str | None = None) -> None:
        _emit({"advance": steps, "note": note})


@contextmanager
def _json_progress(description: str, total: float | None) -> Iterator[_JsonProgress]:
    del description
    _emit({"total": total})
    yield _JsonProgress()


class _JsonLogHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _emit({"log": record.getMessage(), "level": record.levelno})


def _emit(message: dict[str, Any]) -> None:
    if distributed.is_main_process():
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def _write_failure(folder: Path, kind: str, message: str, **details: Any) -> None:
    text = json.dumps({"kind": kind, "message": message, **details})
    write_durably(folder / f"failure-{distributed.get_rank()}.json", text)


def _terminate_when_parent_exits() -> None:
    """Send SIGTERM to this process once standard input closes: the launcher is gone."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), stop_with_parent=STOP_WITH_PARENT_OPTION in sys.argv[2:]))
