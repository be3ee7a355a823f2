"""Threads that read pieces of a repository at the same time.

Threads and not processes: git, which does most of the work, runs in processes of its own;
compressing, writing and searching release the interpreter; and a second interpreter would
cost the start of a small repository's whole reading, and a hundred megabytes.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final, TypeVar

_AHEAD: Final = 2  # jobs that wait for each thread; their results are small

Job = tuple[Callable[..., Any] | None, tuple[Any, ...]]
"""A function and its arguments; or None and the result, where it is known already."""
Answer = TypeVar("Answer")


def run_jobs(jobs: Iterable[Job], n_threads: int) -> Iterator[Any]:
    """Run the jobs and yield their results in order, a few of them ahead."""
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
                if len(pending) > n_threads * _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class Stretches:
    """Numbers 0, 1, 2 … handed out so that each thread walks along neighbours.

    Git unpacks neighbouring commits from what it just unpacked. Two threads share a stretch and
    come from its two ends: early commits are many and small, late ones touch large files, so
    that at any time one waits more for git and the other for this interpreter. A thread whose
    stretch is done helps with the longest one that is left.

    >>> stretches = Stretches(5, n_threads=2)
    >>> [stretches.take(thread) for thread in (0, 1, 1, 0, 1, 0)]
    [0, 4, 3, 1, 2, None]
    """

    def __init__(self, n_numbers: int, n_threads: int) -> None:
        self._lock = threading.Lock()
        n_stretches = (n_threads + 1) // 2
        borders = [n_numbers * i // n_stretches for i in range(n_stretches + 1)]
        self._left = [range(*pair) for pair in itertools.pairwise(borders)]
        self._stretch_of = [thread // 2 for thread in range(n_threads)]

    def peek(self, thread: int) -> int | None:
        """Return the number that the thread would take now, None when all are taken."""
        stretch = self._left[self._stretch_of[thread]] or max(self._left, key=len)
        return stretch[-(thread % 2)] if stretch else None

    def take(self, thread: int) -> int | None:
        """Return the next number for that thread, None when all are taken."""
        with self._lock:
            number = self.peek(thread)
            for i, left in enumerate(self._left):
                if number is not None and number in left:
                    self._left[i] = left[:-1] if number == left[-1] else left[1:]
                    self._stretch_of[thread] = i
            return number

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._lock:
            self._left = [range(0)] * len(self._left)


class Stretch:
    """The numbers that fall to one thread, as it takes them."""

    def __init__(self, stretches: Stretches, thread: int) -> None:
        self._stretches = stretches
        self._thread = thread

    def __iter__(self) -> Iterator[int]:
        return iter(lambda: self._stretches.take(self._thread), None)

    def peek(self) -> int | None:
        """Return the number that probably comes next; another thread may take it first."""
        return self._stretches.peek(self._thread)


def in_stretches(
    n_items: int, n_threads: int, work: Callable[[Stretch], Iterator[Answer]]
) -> Iterator[Answer]:
    """Yield what ``work`` yields, in the order of time.

    Args:
        n_items: How many items there are to work on.
        n_threads: How many threads work.
        work: Run once in each thread, with the numbers of the items that fall to it; yields
            one answer for each number before it takes the next.
    """
    stretches = Stretches(n_items, n_threads)
    answers: SimpleQueue[tuple[Answer] | BaseException] = SimpleQueue()

    def run(thread: int) -> None:
        try:
            for answer in work(Stretch(stretches, thread)):
                answers.put((answer,))
        except BaseException as error:  # noqa: BLE001, it is raised again where it is waited for
            answers.put(error)

    threads = [
        threading.Thread(target=run, args=(i,), name=f"git-ingest-{i}") for i in range(n_threads)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(n_items):
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer[0]
    finally:
        stretches.stop()
        for thread in threads:
            thread.join()
