import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import TableError
from the_block_llm.execution import local_jobs
from the_block_llm.execution.jobs import Call
from the_block_llm.execution.local_jobs import (
    WorkerDiedError,
    run_in_processes,
    run_in_subprocess,
    stop_idle_workers,
)


@pytest.fixture(autouse=True)
def no_idle_workers() -> Iterator[None]:
    stop_idle_workers()
    yield
    stop_idle_workers()


def slow_pid() -> int:
    time.sleep(0.05)
    return os.getpid()


def worker_pids(n_jobs: int = 40, n_processes: int = 2) -> set[int]:
    """Return the pids of workers that ran a job, this process excluded; waits for at least one."""
    found: set[int] = set()
    deadline = time.monotonic() + 60
    while not found and time.monotonic() < deadline:
        found |= {*run_in_processes([(slow_pid, ())] * n_jobs, n_processes)} - {os.getpid()}
    return found


def test_workers_are_reused_by_the_next_stage() -> None:
    [worker] = worker_pids()
    assert worker_pids() == {worker}
    stop_idle_workers()
    assert not psutil.pid_exists(worker)
    assert worker_pids() != {worker}


def test_a_worker_with_another_environment_is_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [worker] = worker_pids()
    # Relative paths in a job would resolve differently.
    monkeypatch.chdir(tmp_path)
    assert worker not in worker_pids()


def test_a_subprocess_ends_with_its_function() -> None:
    first, second = run_in_subprocess(os.getpid), run_in_subprocess(os.getpid)
    assert os.getpid() not in {first, second}
    assert first != second
    assert not psutil.pid_exists(first)
    with pytest.raises(TableError, match="no table"):
        run_in_subprocess(ParquetTable, Path("nowhere"))
    with pytest.raises(WorkerDiedError):
        run_in_subprocess(os._exit, 3)


def test_idle_workers_are_stopped_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_jobs, "_IDLE_TIMEOUT_S", 0.2)
    [worker] = worker_pids()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_itself_in_a_worker(parent: int) -> int:
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return 0


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_worker_is_an_error_and_not_reused() -> None:
    jobs: list[Call] = [(kill_itself_in_a_worker, (os.getpid(),))] * 2000
    with pytest.raises(WorkerDiedError, match="ended with code -9"):
        list(run_in_processes(jobs, 2))
    assert worker_pids()


def test_closing_the_iterator_early_stops_the_workers() -> None:
    before = threading.active_count()
    running = run_in_processes([(slow_pid, ())] * 10_000, 3)
    next(running)
    running.close()
    stop_idle_workers()
    assert threading.active_count() <= before + 1  # the idle timer
