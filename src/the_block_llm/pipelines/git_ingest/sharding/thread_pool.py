"""Threads that read shards of a repository in parallel.

Threads and not processes: git, which does most of the work, runs in separate processes;
compressing, writing and searching release the GIL; and a second interpreter would cost as much
time as reading a small repository, and a hundred megabytes.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final, TypeVar

_PENDING_PER_THREAD: Final = 2  # their results are small

Job = tuple[Callable[..., Any] | None, tuple[Any, ...]]
"""A function and its arguments; or None and a tuple of the known result."""
Result = TypeVar("Result")


def run_jobs(jobs: Iterable[Job], n_threads: int) -> Iterator[Any]:
    """Run the jobs in threads and yield their results in order, prefetching a few."""
    pending: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(n_threads, "git-ingest") as pool:
        try:
            for function, arguments in jobs:
                if function is None:
                    future: Future[Any] = Future()
                    future.set_result(arguments[0])
                else:
                    future = pool.submit(function, *arguments)
                pending.append(future)
                if len(pending) > n_threads * _PENDING_PER_THREAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class IndexScheduler:
    """Distributes the indices 0 … n-1 so that each thread takes consecutive ones.

    git reads a commit faster after its neighbor, whose objects it has just inflated. Two threads
    share a range and take from its two ends: early commits are many and small, late ones touch
    large files, so one thread waits mostly for git while the other uses the interpreter. A thread
    whose range is empty takes from the longest one.

    >>> scheduler = IndexScheduler(5, n_threads=2)
    >>> [scheduler.take(thread) for thread in (0, 1, 1, 0, 1, 0)]
    [0, 4, 3, 1, 2, None]
    """

    def __init__(self, n_items: int, n_threads: int) -> None:
        self._lock = threading.Lock()
        n_ranges = (n_threads + 1) // 2
        bounds = [n_items * i // n_ranges for i in range(n_ranges + 1)]
        self._remaining = [range(*pair) for pair in itertools.pairwise(bounds)]
        self._range_of_thread = [thread // 2 for thread in range(n_threads)]

    def peek(self, thread: int) -> int | None:
        """Return the index that the thread would take now, or None if all are taken."""
        remaining = self._remaining[self._range_of_thread[thread]] or max(self._remaining, key=len)
        return remaining[-(thread % 2)] if remaining else None

    def take(self, thread: int) -> int | None:
        """Return the next index for the thread, or None if all are taken."""
        with self._lock:
            index = self.peek(thread)
            for i, remaining in enumerate(self._remaining):
                if index is not None and index in remaining:
                    is_last = index == remaining[-1]
                    self._remaining[i] = remaining[:-1] if is_last else remaining[1:]
                    self._range_of_thread[thread] = i
            return index

    def stop(self) -> None:
        """Discard the remaining indices."""
        with self._lock:
            self._remaining = [range(0)] * len(self._remaining)


class ThreadIndices:
    """Iterates over the indices that one thread takes."""

    def __init__(self, scheduler: IndexScheduler, thread: int) -> None:
        self._scheduler = scheduler
        self._thread = thread

    def __iter__(self) -> Iterator[int]:
        return iter(lambda: self._scheduler.take(self._thread), None)

    def peek(self) -> int | None:
        """Return the index that probably comes next; another thread may take it first."""
        return self._scheduler.peek(self._thread)


def run_in_threads(
    n_items: int, n_threads: int, work: Callable[[ThreadIndices], Iterator[Result]]
) -> Iterator[Result]:
    """Yield the results of ``work`` in the order in which they finish.

    Args:
        n_items: Number of items to process.
        n_threads: Number of threads.
        work: Called once in each thread with the indices of its items; yields one result for
            each index before it takes the next.
    """
    scheduler = IndexScheduler(n_items, n_threads)
    results: SimpleQueue[tuple[Result] | BaseException] = SimpleQueue()

    def run(thread: int) -> None:
        try:
            for result in work(ThreadIndices(scheduler, thread)):
                results.put((result,))
        except BaseException as error:  # noqa: BLE001, raised again in the consuming thread
            results.put(error)

    threads = [
        threading.Thread(target=run, args=(i,), name=f"git-ingest-{i}") for i in range(n_threads)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(n_items):
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield result[0]
    finally:
        scheduler.stop()
        for thread in threads:
            thread.join()
