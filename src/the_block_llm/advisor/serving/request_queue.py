"""Queue of requests for the single model thread, with timeouts and cancellation."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from the_block_llm.advisor.params import ServeParams

_T = TypeVar("_T")


class QueueFullError(Exception):
    """The maximum number of requests is queued."""


class QueueTimeoutError(Exception):
    """The request was queued longer than the timeout."""


class ShuttingDownError(Exception):
    """The server is shutting down."""


class Job(Generic[_T]):
    """Work on the model thread that emits chunks to the event loop."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """On the clock of ``time.monotonic``."""
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[Any] = asyncio.Queue()
        self._cancelled = threading.Event()
        self._end = object()
        self._future: asyncio.Future[_T] | None = None

    def emit(self, chunk: Any) -> None:
        """Pass a chunk to the event loop; called on the model thread."""
        self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)

    def is_cancelled(self) -> bool:
        """Return whether the work is to end; called on the model thread after every token."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """End the work at its next token; does nothing if it has ended."""
        self._cancelled.set()

    def attach(self, future: asyncio.Future[_T]) -> None:
        """Set the future of the running work; called by :class:`RequestQueue`."""
        self._future = future
        future.add_done_callback(lambda _: self._chunks.put_nowait(self._end))

    async def chunks(self) -> AsyncIterator[Any]:
        """Yield chunks as they arrive, until the work ends."""
        while (chunk := await self._chunks.get()) is not self._end:
            yield chunk

    async def result(self) -> _T:
        """Return the result of the work, or raise its error."""
        assert self._future is not None  # noqa: S101  # jobs are returned only once they run
        return await asyncio.shield(self._future)


class RequestQueue:
    """Runs requests on the single model thread, first in, first out."""

    def __init__(self, limits: ServeParams) -> None:
        self._limits = limits
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._lock = asyncio.Lock()
        self._jobs: set[Job[Any]] = set()
        self._is_shutting_down = False
        self.n_waiting = 0

    @property
    def n_running(self) -> int:
        """Number of running jobs."""
        return len(self._jobs)

    async def submit(self, work: Callable[[Job[_T]], _T]) -> Job[_T]:
        """Wait in the queue, then start ``work`` on the model thread.

        Raises:
            QueueFullError: The maximum number of requests is queued.
            QueueTimeoutError: The request was queued longer than the timeout.
            ShuttingDownError: The server is shutting down.
        """
        self._check_not_shutting_down()
        if self._lock.locked() and self.n_waiting >= self._limits.max_queued:
            raise QueueFullError
        self.n_waiting += 1
        try:
            async with asyncio.timeout(self._limits.queue_timeout_s):
                await self._lock.acquire()
        except TimeoutError:
            raise QueueTimeoutError from None
        finally:
            self.n_waiting -= 1
        try:
            self._check_not_shutting_down()
        except ShuttingDownError:
            self._lock.release()
            raise
        job: Job[_T] = Job(time.monotonic() + self._limits.answer_timeout_s)
        self._jobs.add(job)
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, job)

        def release(done: asyncio.Future[_T]) -> None:
            # The lock is released when the work ends, also if the client has disconnected.
            self._jobs.discard(job)
            self._lock.release()
            if not done.cancelled():
                done.exception()

        future.add_done_callback(release)
        job.attach(future)
        return job

    def _check_not_shutting_down(self) -> None:
        if self._is_shutting_down:
            raise ShuttingDownError

    async def run_unqueued(self, work: Callable[[], _T]) -> _T:
        """Run ``work`` on the model thread without queueing; for server startup."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Refuse new requests, cancel running jobs at their next token, and join the thread."""
        self._is_shutting_down = True
        for job in self._jobs:
            job.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)
