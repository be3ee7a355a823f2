"""Jobs in worker processes of this machine, which one stage takes over from the other."""

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
    end_idle_workers,
    run_in_processes,
    run_in_subprocess,
)


@pytest.fixture(autouse=True)
def no_idle_workers() -> Iterator[None]:
    end_idle_workers()
    yield
    end_idle_workers()


def slow_pid() -> int:
    time.sleep(0.05)
    return os.getpid()


def workers_of(n_jobs: int = 40, n_processes: int = 2) -> set[int]:
    """Who worked, this process aside; waits until somebody else has."""
    found: set[int] = set()
    deadline = time.monotonic() + 60
    while not found and time.monotonic() < deadline:
        found |= {*run_in_processes([(slow_pid, ())] * n_jobs, n_processes)} - {os.getpid()}
    return found


def test_the_next_stage_takes_over_the_workers() -> None:
    [worker] = workers_of()
    assert workers_of() == {worker}
    end_idle_workers()
    assert not psutil.pid_exists(worker)
    assert workers_of() != {worker}


def test_a_worker_of_other_surroundings_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [worker] = workers_of()
    # Relative paths of a job would mean others there.
    monkeypatch.chdir(tmp_path)
    assert worker not in workers_of()


def test_a_process_apart_ends_with_its_function() -> None:
    first, second = run_in_subprocess(os.getpid), run_in_subprocess(os.getpid)
    assert os.getpid() not in {first, second}
    assert first != second
    assert not psutil.pid_exists(first)
    with pytest.raises(TableError, match="no table"):
        run_in_subprocess(ParquetTable, Path("nowhere"))
    with pytest.raises(WorkerDiedError):
        run_in_subprocess(os._exit, 3)


def test_workers_that_nobody_asks_for_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_jobs, "_IDLE_S", 0.2)
    [worker] = workers_of()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def end_itself_elsewhere(parent: int) -> int:
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return 0


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_worker_that_was_killed_is_told_and_not_taken_over() -> None:
    jobs: list[Call] = [(end_itself_elsewhere, (os.getpid(),))] * 2000
    with pytest.raises(WorkerDiedError, match="ended with code -9"):
        list(run_in_processes(jobs, 2))
    assert workers_of()


def test_who_stops_early_leaves_no_worker_at_work() -> None:
    before = threading.active_count()
    running = run_in_processes([(slow_pid, ())] * 10_000, 3)
    next(running)
    running.close()
    end_idle_workers()
    assert threading.active_count() <= before + 1  # the timer that would have ended them
