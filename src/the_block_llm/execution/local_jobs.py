"""Run jobs in worker processes of this machine.

Each worker is a new interpreter with this package and nothing else of the calling program: a fork
would copy a parent that may hold a model, and multiprocessing's spawn would import all of Kedro
again. Starting a worker takes as long as reading some small repositories, so a stage reuses the
workers of the stage before it; idle workers are stopped after a timeout.
"""

import atexit
import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from the_block_llm.errors import BlockError
from the_block_llm.execution.jobs import Call

_QUEUED_PER_WORKER: Final = 2  # jobs; their results are small
_POLL_S: Final = 0.1
_IDLE_TIMEOUT_S: Final = 15.0  # longer than any stage writes its tables before the next one starts


class WorkerDiedError(BlockError):
    """A worker process died while it ran a job."""


def run_in_processes(jobs: Iterable[Call], n_processes: int) -> Iterator[Any]:
    """Run the jobs and yield their results in order.

    Args:
        jobs: Functions, arguments and results must be picklable.
        n_processes: Number of processes, this one included.

    Raises:
        WorkerDiedError: A worker ended unexpectedly.
        BlockError: The job raised this.
    """
    if n_processes == 1:
        for function, arguments in jobs:
            yield function(*arguments)
        return
    # This process runs jobs too: it needs no start, so a small repository does not wait for a
    # worker, and it has the libraries in memory already.
    queue = _JobQueue(jobs, limit=n_processes * (1 + _QUEUED_PER_WORKER))
    workers = [_Worker(queue) for _ in range(n_processes - 1)]
    try:
        while (pending := queue.oldest()) is not None:
            while not pending.done() and (taken := queue.take()) is not None:
                _run_here(*taken)
            yield queue.finish(pending)
    finally:
        queue.stop()
        for worker in workers:
            worker.stop()


def run_in_subprocess(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a new process, so that its imports do not stay in this one.

    Args:
        function: Module-level; it and its result must be picklable.
        *arguments: Of the function.

    Raises:
        WorkerDiedError: The process ended unexpectedly.
        BlockError: The function raised this.
    """
    process = _WorkerProcess()
    try:
        # The first message of a process reports that it is ready; results come after it.
        process.is_ready.wait()
        return process.call((function, arguments))
    finally:
        process.kill()


def _run_here(job: Call, future: Future[Any]) -> None:
    function, arguments = job
    try:
        future.set_result(function(*arguments))
    except BaseException as error:
        future.set_exception(error)
        raise


class _JobQueue:
    """Jobs in order, taken by several threads, a bounded number ahead of the yielded results."""

    def __init__(self, jobs: Iterable[Call], limit: int) -> None:
        self._jobs = iter(jobs)
        self._limit = limit
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[tuple[Call, Future[Any]]] = deque()
        self._unfinished: deque[Future[Any]] = deque()
        self.is_stopped = False

    def oldest(self) -> Future[Any] | None:
        """Return the next result to yield, None after the last."""
        with self._lock:
            self._fill()
            return self._unfinished[0] if self._unfinished else None

    def take(self) -> tuple[Call, Future[Any]] | None:
        """Return a job that no thread has taken, None if there is none right now."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def wait(self) -> tuple[Call, Future[Any]] | None:
        """Block until there is a job and return it; None once the queue is stopped."""
        with self._lock:
            self._changed.wait_for(lambda: self._waiting or self.is_stopped)
            return None if self.is_stopped else self._waiting.popleft()

    def finish(self, pending: Future[Any]) -> Any:
        result = pending.result()
        with self._lock:
            self._unfinished.popleft()
            self._fill()
        return result

    def stop(self) -> None:
        with self._lock:
            self.is_stopped = True
            self._changed.notify_all()

    def _fill(self) -> None:
        # Called only by the thread that yields results, so the iterator is never shared.
        while len(self._unfinished) < self._limit:
            job = next(self._jobs, None)
            if job is None:
                return
            future: Future[Any] = Future()
            self._unfinished.append(future)
            self._waiting.append((job, future))
            self._changed.notify()


class _WorkerProcess:
    """An interpreter that runs one job after the other."""

    def __init__(self) -> None:
        self.environment = _environment()
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.is_ready = threading.Event()
        """Also set if the process died at its start; its first job then fails."""
        threading.Thread(target=self._wait, name="worker start", daemon=True).start()

    def _wait(self) -> None:
        with contextlib.suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
            pickle.load(self._process.stdout)  # type: ignore[arg-type]  # noqa: S301, we started it
        self.is_ready.set()

    def call(self, job: Call) -> Any:
        process = self._process
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
        try:
            pickle.dump(job, process.stdin)
            process.stdin.flush()
            result, error = pickle.load(process.stdout)  # noqa: S301, from the process started above
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise WorkerDiedError(
                f"A worker process ended with code {process.wait()}, most likely because it ran "
                "out of memory. Run again with a smaller git_ingest.n_processes; finished work is "
                "kept."
            ) from error
        if error is not None:
            raise error
        return result

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


def _environment() -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Return what a worker inherits at its start; a worker with another environment is not reused.

    These are the working directory, the import path and the environment variables.
    """
    return str(Path.cwd()), tuple(sys.path), dict(os.environ)


class _IdlePool:
    """Worker processes between two stages."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: list[_WorkerProcess] = []
        self._timer: threading.Timer | None = None
        atexit.register(self.stop_all)

    def take(self) -> _WorkerProcess | None:
        """Remove and return a live worker with the current environment, None if there is none."""
        environment = _environment()
        with self._lock:
            for number, process in enumerate(self._processes):
                if process.environment == environment and process.is_alive:
                    return self._processes.pop(number)
        return None

    def put(self, process: _WorkerProcess) -> None:
        """Keep an idle worker until the timeout."""
        with self._lock:
            self._processes.append(process)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(_IDLE_TIMEOUT_S, self.stop_all)
            self._timer.daemon = True
            self._timer.start()

    def stop_all(self) -> None:
        """Stop all idle workers: later stages may need their memory."""
        with self._lock:
            stopped, self._processes = self._processes, []
        for process in stopped:
            process.kill()


_idle_pool: Final = _IdlePool()


def stop_idle_workers() -> None:
    """Stop the workers that wait for another stage, without waiting for the timeout."""
    _idle_pool.stop_all()


class _Worker:
    """A worker process, and the thread that sends jobs to it."""

    def __init__(self, queue: _JobQueue) -> None:
        self._queue = queue
        self._process = _idle_pool.take() or _WorkerProcess()
        self._is_working = False
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return the process to the idle pool, or kill it if it is still running a job."""
        if self._is_working:
            self._process.kill()
        self._thread.join()
        if self._process.is_alive:
            _idle_pool.put(self._process)
        else:
            self._process.kill()

    def _work(self) -> None:
        while not self._process.is_ready.wait(_POLL_S):
            if self._queue.is_stopped:
                return
        while (taken := self._queue.wait()) is not None:
            job, future = taken
            self._is_working = True
            try:
                result = self._process.call(job)
            except BaseException as error:  # noqa: BLE001, raised again by future.result()
                self._is_working = False
                future.set_exception(error)
            else:
                self._is_working = False
                future.set_result(result)


def _serve() -> None:
    """Run jobs from stdin and write their results to stdout, until stdin is closed."""
    # Results get a separate file descriptor, so output of a library cannot corrupt them.
    results = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    pickle.dump("ready", results)
    results.flush()
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301, from our parent
        except EOFError:
            return
        try:
            result: tuple[Any, Exception | None] = (function(*arguments), None)
        except Exception as error:  # noqa: BLE001, raised again in the parent
            result = (None, error)
        pickle.dump(result, results)
        results.flush()


if __name__ == "__main__":
    _serve()
