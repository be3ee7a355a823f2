"""One answer at a time: who waits, how long, and what happens when a client goes away."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from the_block_llm.advisor.params import ServeParams

_T = TypeVar("_T")


class BusyError(Exception):
    """So many wait already that another had better come back later."""


class WaitedTooLongError(Exception):
    """The turn did not come in time."""


class StoppingError(Exception):
    """The server is being stopped."""


class Job(Generic[_T]):
    """Work on the model's thread, whose pieces arrive here."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """On the clock of ``time.monotonic``."""
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Any] = asyncio.Queue()
        self._cancelled = threading.Event()
        self._end = object()
        self._future: asyncio.Future[_T] | None = None

    def emit(self, piece: Any) -> None:
        """Hand over a piece; called on the model's thread."""
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    def is_cancelled(self) -> bool:
        """Asked on the model's thread after every token."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """End the work at its next token."""
        self._cancelled.set()

    def attach(self, future: asyncio.Future[_T]) -> None:
        """Called by :class:`Turns`: the work has begun."""
        self._future = future
        future.add_done_callback(lambda _: self._pieces.put_nowait(self._end))

    async def pieces(self) -> AsyncIterator[Any]:
        """Pieces as they come, to the end of the work."""
        while (piece := await self._pieces.get()) is not self._end:
            yield piece

    async def result(self) -> _T:
        """What the work gave, or its error."""
        assert self._future is not None  # noqa: S101  # a job is handed out once it runs
        return await asyncio.shield(self._future)


class Turns:
    """Hands the one thread of the model to requests, in the order in which they came."""

    def __init__(self, limits: ServeParams) -> None:
        self._limits = limits
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._lock = asyncio.Lock()
        self._jobs: set[Job[Any]] = set()
        self._stopping = False
        self.waiting = 0

    @property
    def running(self) -> int:
        return len(self._jobs)

    async def start(self, work: Callable[[Job[_T]], _T]) -> Job[_T]:
        """Wait for a turn, then start ``work`` on the model's thread.

        Raises:
            BusyError: Too many wait already.
            WaitedTooLongError: The turn did not come in time.
            StoppingError: The server is being stopped.
        """
        self._refuse_when_stopping()
        if self._lock.locked() and self.waiting >= self._limits.max_queued:
            raise BusyError
        self.waiting += 1
        try:
            async with asyncio.timeout(self._limits.queue_timeout_s):
                await self._lock.acquire()
        except TimeoutError:
            raise WaitedTooLongError from None
        finally:
            self.waiting -= 1
        try:
            self._refuse_when_stopping()
        except StoppingError:
            self._lock.release()
            raise
        job: Job[_T] = Job(time.monotonic() + self._limits.answer_timeout_s)
        self._jobs.add(job)
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, job)

        def finished(done: asyncio.Future[_T]) -> None:
            # The turn ends with the work, also where nobody waits for it any more.
            self._jobs.discard(job)
            self._lock.release()
            if not done.cancelled():
                done.exception()

        future.add_done_callback(finished)
        job.attach(future)
        return job

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise StoppingError

    async def run(self, work: Callable[[], _T]) -> _T:
        """Do ``work`` on the model's thread, out of turn; for the start of the server."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def stop(self) -> None:
        """End what runs at its next token and let nothing new begin."""
        self._stopping = True
        for job in self._jobs:
            job.cancel()

    def close(self) -> None:
        """Wait for the thread to end."""
        self.stop()
        self._executor.shutdown(wait=True, cancel_futures=True)
