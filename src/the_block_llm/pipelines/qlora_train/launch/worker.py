"""One of several training processes, on one machine or on many; started by torchrun.

``python -m torch.distributed.run --nproc-per-node=2 --module
the_block_llm.pipelines.qlora_train.launch.worker FOLDER`` reads ``FOLDER/job.json`` and writes
``FOLDER/outcome.json``. The first process says what happens as lines of JSON.
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
    BlockError,
    StoppedOnRequest,
    TrainingError,
    WorkerOutOfMemoryError,
)
from the_block_llm.pipelines.qlora_train.job import JOB_FILE, TrainingJob
from the_block_llm.pipelines.qlora_train.launch.launcher import ENDS_WITH_PARENT, OUTCOME_FILE
from the_block_llm.pipelines.qlora_train.loop.run import train
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import is_out_of_memory


def main(folder: Path, *, ends_with_parent: bool) -> int:
    """Train the job in ``folder`` together with the other processes; gives the exit code.

    Args:
        folder: Seen by the processes of every machine, with ``job.json`` in it.
        ends_with_parent: Stop when standard input closes. A batch system has none to close.
    """
    if ends_with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    if distributed.is_first():
        logging.getLogger("the_block_llm").addHandler(_JsonLines())
        logging.getLogger("the_block_llm").setLevel(logging.INFO)
    job = TrainingJob.model_validate_json((folder / JOB_FILE).read_text(encoding="utf-8"))
    try:
        outcome = train(job, show_progress=_progress_lines)
    except StoppedOnRequest as error:
        _fail(folder, type(error).__name__, str(error), exit_code=error.exit_code)
        return 0
    except WorkerOutOfMemoryError as error:
        _fail(folder, type(error).__name__, str(error), rows=error.rows)
        return 1
    except BlockError as error:
        _fail(folder, type(error).__name__, str(error))
        return 1
    except Exception as error:  # noqa: BLE001  # told to the process that waits, and ends this one
        if is_out_of_memory(error):
            _fail(folder, WorkerOutOfMemoryError.__name__, f"Out of memory: {error}.")
            return 1
        # torchrun's own last words, which are all that else comes through, do not say what it was.
        traceback.print_exc()
        _fail(folder, TrainingError.__name__, _as_said(error))
        return 1
    if distributed.is_first():
        (folder / OUTCOME_FILE).write_text(outcome.model_dump_json(), encoding="utf-8")
    distributed.leave_processes()
    return 0


def _as_said(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"A training process failed: {type(error).__name__}: {error} ({Path(where.filename).name}, "
        f"line {where.lineno}). The last checkpoint is kept; the same command goes on from it."
    )


class _ProgressLines:
    def advance(self, steps: float = 1, note: str | None = None) -> None:
        _say({"advance": steps, "note": note})


@contextmanager
def _progress_lines(description: str, total: float | None) -> Iterator[_ProgressLines]:
    del description
    _say({"total": total})
    yield _ProgressLines()


class _JsonLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _say({"log": record.getMessage(), "level": record.levelno})


def _say(message: dict[str, Any]) -> None:
    if distributed.is_first():
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def _fail(folder: Path, kind: str, message: str, **more: Any) -> None:
    text = json.dumps({"kind": kind, "message": message, **more})
    (folder / f"failure-{distributed.rank()}.json").write_text(text, encoding="utf-8")


def _end_with_parent() -> None:
    """Stop as if asked to, once the process that started all this is gone."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), ends_with_parent=ENDS_WITH_PARENT in sys.argv[2:]))
