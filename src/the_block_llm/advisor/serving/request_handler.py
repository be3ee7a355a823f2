"""From a request to what is sent back: in turn, whole or streamed, ended when nobody listens."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from the_block_llm.advisor.output.results import Answer, Completion
from the_block_llm.advisor.serving.error_responses import GoneError, OvertimeError, error_body
from the_block_llm.advisor.serving.metrics import Metrics
from the_block_llm.advisor.serving.request_queue import Job, StoppingError, Turns

_log = logging.getLogger(__name__)
_Made = TypeVar("_Made", Answer, Completion)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Rendering(Generic[_Made]):
    """How one kind of answer looks on the wire."""

    chunk: Callable[[Any], dict[str, Any]]
    """A piece of a stream."""
    last_chunks: Callable[[_Made], list[dict[str, Any]]]
    """What a stream ends with."""
    whole: Callable[[_Made], dict[str, Any]]
    """The answer where it is not streamed."""


class Answering:
    """Answers requests with the one model thread."""

    def __init__(self, turns: Turns, metrics: Metrics) -> None:
        self._turns = turns
        self._metrics = metrics

    async def respond(
        self,
        request: Request,
        work: Callable[[Job[_Made]], _Made],
        rendering: Rendering[_Made],
        *,
        stream: bool,
    ) -> Response:
        """Do ``work`` in its turn.

        Whatever goes wrong before the first piece becomes a status; later there is only an
        event in the stream to say it with.

        Raises:
            GoneError: The client went away first.
            BusyError: Too many wait already.
            WaitedTooLongError: The turn did not come in time.
            StoppingError: The server is being stopped.
            OvertimeError: The answer took too long.
            BlockError: What the work raised.
        """
        started = time.monotonic()
        if not stream:
            made = await self._unless_gone(request, self._whole(work, started))
            return JSONResponse(rendering.whole(made))
        job, pieces, first = await self._unless_gone(request, self._begin(work, started))
        events = self._events(job, pieces, first, rendering, started)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _begin(
        self, work: Callable[[Job[_Made]], _Made], started: float
    ) -> tuple[Job[_Made], AsyncIterator[Any], Any]:
        """Start, and wait for the first piece."""
        job = await self._turns.start(work)
        try:
            pieces = job.pieces()
            first = await anext(pieces, None)
            if first is None:
                _check_finish(await job.result())
            self._metrics.first_word.observe(time.monotonic() - started)
        except BaseException:
            job.cancel()
            raise
        return job, pieces, first

    async def _whole(self, work: Callable[[Job[_Made]], _Made], started: float) -> _Made:
        job, pieces, _ = await self._begin(work, started)
        try:
            async for _ in pieces:
                pass
            made = await job.result()
        finally:
            job.cancel()  # nothing where it has ended
        _check_finish(made)
        self._count(made, started)
        return made

    async def _events(
        self,
        job: Job[_Made],
        pieces: AsyncIterator[Any],
        first: Any,
        rendering: Rendering[_Made],
        started: float,
    ) -> AsyncIterator[str]:
        """Server-sent events; closing this iterator ends the work."""
        is_whole = False
        try:
            if first is not None:
                yield _event(rendering.chunk(first))
            async for piece in pieces:
                yield _event(rendering.chunk(piece))
            made = await job.result()
            is_whole = True
            _check_finish(made)
            for chunk in rendering.last_chunks(made):
                yield _event(chunk)
            yield "data: [DONE]\n\n"
            self._count(made, started)
        except Exception as error:  # noqa: BLE001  # the status is sent; this is how it is said now
            status, body = error_body(error)
            if status == 500:
                _log.exception("An answer failed", extra={"markup": False})
            yield _event({"error": body.model_dump()})
        finally:
            job.cancel()
            if not is_whole:
                self._metrics.cancelled.inc()

    async def _unless_gone(self, request: Request, work: Coroutine[Any, Any, _T]) -> _T:
        """Give the work up when the client does."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            self._metrics.cancelled.inc()
            raise GoneError
        finally:
            gone.cancel()
            task.cancel()

    def _count(self, made: Answer | Completion, started: float) -> None:
        self._metrics.whole.observe(time.monotonic() - started)
        self._metrics.tokens.labels(made.model, "read").inc(made.n_prompt_tokens)
        self._metrics.tokens.labels(made.model, "written").inc(made.n_tokens)
        if isinstance(made, Answer):
            for citation in made.citations:
                self._metrics.citations.labels(str(citation.exists).lower()).inc()


def _check_finish(made: Answer | Completion) -> None:
    if made.finish == "time":
        raise OvertimeError
    if made.finish == "cancelled":
        # A client that goes away hears nothing of it; only the server itself ends others' work.
        raise StoppingError


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
