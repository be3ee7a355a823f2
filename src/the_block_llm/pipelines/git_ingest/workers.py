"""Worker processes that read pieces of a repository at the same time.

Each is a fresh interpreter that knows this package and nothing of the program around it: a
fork would copy a parent that may hold a model, and multiprocessing's spawn would import the
whole of Kedro again.
"""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from the_block_llm.errors import BlockError

_AHEAD: Final = 2  # pieces that wait for each worker; their results are small

Job = tuple[Callable[..., Any] | None, tuple[Any, ...]]
"""A module's function and its arguments; or None and the result, where it is known already."""


def run_jobs(jobs: Iterable[Job], n_processes: int) -> Iterator[Any]:
    """Run the jobs and yield their results in order.

    Args:
        jobs: What to run; functions and arguments must be such that pickle can send them.
        n_processes: With 1 everything runs in this process.

    Raises:
        BlockError: A worker ended unexpectedly, or the job raised this.
    """
    if n_processes == 1:
        for function, arguments in jobs:
            yield arguments[0] if function is None else function(*arguments)
        return
    workers = _Workers()
    pool = ThreadPoolExecutor(n_processes, thread_name_prefix="git-ingest")
    pending: list[Future[Any]] = []
    try:
        for job in jobs:
            function, arguments = job
            if function is None:
                pending.append(Future())
                pending[-1].set_result(arguments[0])
            else:
                pending.append(pool.submit(workers.call, job))
            if len(pending) >= n_processes * (1 + _AHEAD):
                yield pending.pop(0).result()
        while pending:
            yield pending.pop(0).result()
    finally:
        for future in pending:
            future.cancel()
        workers.close()
        pool.shutdown(wait=True, cancel_futures=True)


class _Workers:
    """One process for each thread that calls."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._all: list[subprocess.Popen[bytes]] = []

    def call(self, job: Job) -> Any:
        process: subprocess.Popen[bytes] | None = getattr(self._local, "process", None)
        if process is None:
            process = self._local.process = self._start()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
        try:
            pickle.dump(job, process.stdin)
            process.stdin.flush()
            result, error = pickle.load(process.stdout)  # noqa: S301, what we just started
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise BlockError(
                f"A worker process of git_ingest ended with code {process.wait()}, most likely "
                "because memory ran out. Run again with git_ingest.n_processes=1; what was "
                "finished is kept."
            ) from error
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        for process in self._all:
            process.kill()
            process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._all.append(process)
        return process


def _serve() -> None:
    # Anything printed by a library must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301, from our parent
        except EOFError:
            return
        try:
            answer: tuple[Any, Exception | None] = (function(*arguments), None)
        except Exception as error:  # noqa: BLE001, it is raised again in the parent
            answer = (None, error)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
