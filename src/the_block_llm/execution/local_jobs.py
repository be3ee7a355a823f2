"""Jobs in worker processes of this machine.

Each is a fresh interpreter that knows this package and nothing of the program around it: a
fork would copy a parent that may hold a model, and multiprocessing's spawn would import the
whole of Kedro again. Starting one takes as long as reading some small repositories, so a stage
takes over the workers of the stage before; those that nobody asks for soon are ended.
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

_AHEAD: Final = 2  # jobs that wait for each worker; their results are small
_LOOK_UP_S: Final = 0.1
_IDLE_S: Final = 15.0  # longer than any stage writes its tables before the next one begins


class WorkerDiedError(BlockError):
    """A worker process died under the job whose result was due."""


def run_in_processes(jobs: Iterable[Call], n_processes: int) -> Iterator[Any]:
    """Run the jobs and yield their results in order.

    Args:
        jobs: What to run; functions and arguments must be such that pickle can send them.
        n_processes: How many work, this one included.

    Raises:
        WorkerDiedError: A worker ended unexpectedly.
        BlockError: The job raised this.
    """
    if n_processes == 1:
        for function, arguments in jobs:
            yield function(*arguments)
        return
    # This process works too: it needs no start, so a small repository waits for nobody, and
    # it holds the libraries in memory anyway.
    queue = _Queue(jobs, limit=n_processes * (1 + _AHEAD))
    workers = [_Worker(queue) for _ in range(n_processes - 1)]
    try:
        while (pending := queue.oldest()) is not None:
            while not pending.done() and (mine := queue.take()) is not None:
                _run_here(*mine)
            yield queue.finish(pending)
    finally:
        queue.stop()
        for worker in workers:
            worker.stop()


def run_in_subprocess(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a process that ends with it, and leaves none of its libraries here.

    Args:
        function: Of a module; pickle must be able to send it and its result.
        *arguments: Its own.

    Raises:
        WorkerDiedError: The process ended unexpectedly.
        BlockError: The function raised this.
    """
    process = _Process()
    try:
        # Before it says so, what comes from it is not an answer.
        process.is_ready.wait()
        return process.call((function, arguments))
    finally:
        process.end()


def _run_here(job: Call, future: Future[Any]) -> None:
    function, arguments = job
    try:
        future.set_result(function(*arguments))
    except BaseException as error:
        future.set_exception(error)
        raise


class _Queue:
    """Jobs in their order, taken by several threads, a few ahead of what was yielded."""

    def __init__(self, jobs: Iterable[Call], limit: int) -> None:
        self._jobs = iter(jobs)
        self._limit = limit
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[tuple[Call, Future[Any]]] = deque()
        self._unfinished: deque[Future[Any]] = deque()
        self.is_stopped = False

    def oldest(self) -> Future[Any] | None:
        """Return the result that is due next, None after the last."""
        with self._lock:
            self._fill()
            return self._unfinished[0] if self._unfinished else None

    def take(self) -> tuple[Call, Future[Any]] | None:
        """Return a job that nobody has begun, None where there is none at the moment."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def wait(self) -> tuple[Call, Future[Any]] | None:
        """Return a job as soon as there is one, None when there will be none."""
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
        # Only the thread that yields comes here, so the iterator is never shared.
        while len(self._unfinished) < self._limit:
            job = next(self._jobs, None)
            if job is None:
                return
            future: Future[Any] = Future()
            self._unfinished.append(future)
            self._waiting.append((job, future))
            self._changed.notify()


class _Process:
    """An interpreter that runs one job after the other."""

    def __init__(self) -> None:
        self.is_like = _surroundings()
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.is_ready = threading.Event()
        """Also where it ended at its start; its first job then tells."""
        threading.Thread(target=self._wait, name="worker's start", daemon=True).start()

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
            result, error = pickle.load(process.stdout)  # noqa: S301, what we just started
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise WorkerDiedError(
                f"A worker process ended with code {process.wait()}, most likely because memory "
                "ran out. Run again with fewer (git_ingest.n_processes); what was finished is kept."
            ) from error
        if error is not None:
            raise error
        return result

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


def _surroundings() -> tuple[str, tuple[str, ...], dict[str, str]]:
    """What a worker takes over at its start; one that would now start otherwise is not reused."""
    return str(Path.cwd()), tuple(sys.path), dict(os.environ)


class _Idle:
    """Workers between two stages."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: list[_Process] = []
        self._timer: threading.Timer | None = None
        atexit.register(self.end)

    def take(self) -> _Process | None:
        """A worker that is as a new one would be, if there is one."""
        here = _surroundings()
        with self._lock:
            for number, process in enumerate(self._processes):
                if process.is_like == here and process.is_alive:
                    return self._processes.pop(number)
        return None

    def put(self, process: _Process) -> None:
        """Keep a worker that waits for a job, for a while."""
        with self._lock:
            self._processes.append(process)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(_IDLE_S, self.end)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """End all of them: what comes next may need their memory."""
        with self._lock:
            ended, self._processes = self._processes, []
        for process in ended:
            process.end()


_idle: Final = _Idle()


def end_idle_workers() -> None:
    """End the workers that wait for a next stage, now and not some seconds later."""
    _idle.end()


class _Worker:
    """A process, and the thread that hands jobs to it."""

    def __init__(self, queue: _Queue) -> None:
        self._queue = queue
        self._process = _idle.take() or _Process()
        self._is_working = False
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give the process back, or end it where a job is still under way in it."""
        if self._is_working:
            self._process.end()
        self._thread.join()
        if self._process.is_alive:
            _idle.put(self._process)
        else:
            self._process.end()

    def _work(self) -> None:
        while not self._process.is_ready.wait(_LOOK_UP_S):
            if self._queue.is_stopped:
                return
        while (taken := self._queue.wait()) is not None:
            job, future = taken
            self._is_working = True
            try:
                result = self._process.call(job)
            except BaseException as error:  # noqa: BLE001, it is raised again where it is waited for
                self._is_working = False
                future.set_exception(error)
            else:
                self._is_working = False
                future.set_result(result)


def _serve() -> None:
    # Anything printed by a library must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    pickle.dump("ready", answers)
    answers.flush()
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
