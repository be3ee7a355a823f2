"""Runs a request in the queue and builds its response, complete or streamed."""

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
from the_block_llm.advisor.serving.error_responses import (
    AnswerTimeoutError,
    ClientDisconnectedError,
    error_body,
)
from the_block_llm.advisor.serving.metrics import Metrics
from the_block_llm.advisor.serving.request_queue import Job, RequestQueue, ShuttingDownError

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result", Answer, Completion)
_T = TypeVar("_T")


@dataclass(frozen=True)
class ResponseFormat(Generic[_Result]):
    """Conversion of results to JSON objects."""

    chunk: Callable[[Any], dict[str, Any]]
    """Object of one emitted chunk, in a stream."""
    final_chunks: Callable[[_Result], list[dict[str, Any]]]
    """Objects at the end of a stream."""
    response: Callable[[_Result], dict[str, Any]]
    """Object of the complete result, if not streamed."""


class RequestHandler:
    """Answers requests through the queue and records metrics."""

    def __init__(self, queue: RequestQueue, metrics: Metrics) -> None:
        self._queue = queue
        self._metrics = metrics

    async def respond(
        self,
        request: Request,
        work: Callable[[Job[_Result]], _Result],
        response_format: ResponseFormat[_Result],
        *,
        stream: bool,
    ) -> Response:
        """Run ``work`` in the queue and return the response.

        Errors before the first chunk are raised. Once a stream has started its status is sent, so
        later errors become an event of the stream.

        Raises:
            ClientDisconnectedError: The client disconnected.
            QueueFullError: The maximum number of requests is queued.
            QueueTimeoutError: The request was queued longer than the timeout.
            ShuttingDownError: The server is shutting down.
            AnswerTimeoutError: The answer took longer than the timeout.
            BlockError: Raised by the work.
        """
        started = time.monotonic()
        if not stream:
            result = await self._until_disconnect(request, self._run_to_end(work, started))
            return JSONResponse(response_format.response(result))
        job, chunks, first = await self._until_disconnect(request, self._start(work, started))
        events = self._events(job, chunks, first, response_format, started)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _start(
        self, work: Callable[[Job[_Result]], _Result], started: float
    ) -> tuple[Job[_Result], AsyncIterator[Any], Any]:
        """Start the work and wait for its first chunk, which is None if there is no chunk."""
        job = await self._queue.submit(work)
        try:
            chunks = job.chunks()
            first = await anext(chunks, None)
            if first is None:
                _raise_if_incomplete(await job.result())
            self._metrics.first_chunk_s.observe(time.monotonic() - started)
        except BaseException:
            job.cancel()
            raise
        return job, chunks, first

    async def _run_to_end(self, work: Callable[[Job[_Result]], _Result], started: float) -> _Result:
        job, chunks, _ = await self._start(work, started)
        try:
            async for _ in chunks:
                pass
            result = await job.result()
        finally:
            job.cancel()
        _raise_if_incomplete(result)
        self._record(result, started)
        return result

    async def _events(
        self,
        job: Job[_Result],
        chunks: AsyncIterator[Any],
        first: Any,
        response_format: ResponseFormat[_Result],
        started: float,
    ) -> AsyncIterator[str]:
        """Yield server-sent events; closing this iterator cancels the work."""
        is_complete = False
        try:
            if first is not None:
                yield _format_event(response_format.chunk(first))
            async for chunk in chunks:
                yield _format_event(response_format.chunk(chunk))
            result = await job.result()
            is_complete = True
            _raise_if_incomplete(result)
            for chunk in response_format.final_chunks(result):
                yield _format_event(chunk)
            yield "data: [DONE]\n\n"
            self._record(result, started)
        except Exception as error:  # noqa: BLE001  # the status is already sent
            status, body = error_body(error)
            if status == 500:
                _log.exception("A streamed answer failed", extra={"markup": False})
            yield _format_event({"error": body.model_dump()})
        finally:
            job.cancel()
            if not is_complete:
                self._metrics.cancelled.inc()

    async def _until_disconnect(self, request: Request, work: Coroutine[Any, Any, _T]) -> _T:
        """Await ``work``, cancelling it if the client disconnects."""
        task = asyncio.ensure_future(work)
        disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
        try:
            await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            self._metrics.cancelled.inc()
            raise ClientDisconnectedError
        finally:
            disconnect.cancel()
            task.cancel()

    def _record(self, result: Answer | Completion, started: float) -> None:
        """Update the metrics for a complete answer."""
        self._metrics.answer_s.observe(time.monotonic() - started)
        self._metrics.tokens.labels(result.model, "read").inc(result.n_prompt_tokens)
        self._metrics.tokens.labels(result.model, "written").inc(result.n_tokens)
        if isinstance(result, Answer):
            for citation in result.citations:
                self._metrics.citations.labels(str(citation.exists).lower()).inc()


def _raise_if_incomplete(result: Answer | Completion) -> None:
    if result.finish_reason == "time":
        raise AnswerTimeoutError
    if result.finish_reason == "cancelled":
        # A disconnected client receives no response, so only a shutdown can be reported here.
        raise ShuttingDownError


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _format_event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
