"""The FastAPI application: routes, cited sources, page, startup and shutdown."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from the_block_llm import __version__
from the_block_llm.advisor.advisor import Advisor
from the_block_llm.advisor.serving import openai_routes
from the_block_llm.advisor.serving.auth_middleware import AuthMiddleware
from the_block_llm.advisor.serving.error_responses import (
    ERROR_RESPONSES,
    HANDLED_ERRORS,
    error_response,
)
from the_block_llm.advisor.serving.metrics import CONTENT_TYPE, Metrics, MetricsMiddleware
from the_block_llm.advisor.serving.request_handler import RequestHandler
from the_block_llm.advisor.serving.request_queue import RequestQueue

_MAX_SOURCE_LINES: Final = 400
_MAX_PATH_CHARACTERS: Final = 200  # of a request, in an error
_PAGE_HEADERS: Final = {
    # No external and no inline resources: model output cannot run as script.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_sources = APIRouter(prefix="/v1/sources", responses=ERROR_RESPONSES)
_monitoring = APIRouter()


def create_app(
    advisor: Advisor,
    *,
    key: str | None = None,
    loopback_only: bool = True,
    model: str | None = None,
) -> FastAPI:
    """Create the application, which loads the advisor model at startup.

    Args:
        advisor: The advisor that answers requests.
        key: API key that clients must send; None requires none.
        loopback_only: Accept only host names of this machine.
        model: Model for chat requests that name none.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        queue = app.state.queue = RequestQueue(advisor.params.serve)
        metrics.track_queue(queue)
        app.state.request_handler = RequestHandler(queue, metrics)
        # The first request must not wait until the weights are loaded.
        await queue.run_unqueued(lambda: advisor.load(advisor.registry.resolve("advisor", model)))
        try:
            yield
        finally:
            await asyncio.to_thread(queue.close)

    metrics = Metrics()
    app = FastAPI(
        title="the_block_llm advisor",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.advisor, app.state.model, app.state.metrics = advisor, model, metrics
    app.add_middleware(
        AuthMiddleware,
        key=key,
        loopback_only=loopback_only,
        max_body_bytes=advisor.params.serve.max_body_kib * 1024,
    )
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    # Exception: a failure of the server itself is logged, and answered in the same format.
    for error_type in (*HANDLED_ERRORS, Exception):
        app.add_exception_handler(error_type, _handle_error)
    app.include_router(openai_routes.router)
    app.include_router(_sources)
    app.include_router(_monitoring)
    _add_page(app)
    return app


async def _handle_error(request: Request, error: Exception) -> Response:
    return error_response(error, f"{request.method} {request.url.path[:_MAX_PATH_CHARACTERS]}")


class SourceText(BaseModel):
    """Lines of a file, or the text of a commit."""

    title: str
    first_line: int | None
    lines: list[str]


# Sources are looked up in the index by exact name; a request never becomes a path on disk.
@_sources.get("/file")
def read_file(
    request: Request,
    path: Annotated[str, Query(max_length=4096)],
    line: Annotated[int, Query(ge=1, le=10**9)] = 1,
) -> SourceText:
    """Return lines of a file of the repository around ``line``."""
    text = request.app.state.advisor.index().file_text(path)
    if text is None:
        raise HTTPException(404, f"The repository has no file {path[:200]!r}.")
    lines = text.removesuffix("\n").split("\n")
    first = max(1, min(line, len(lines)) - _MAX_SOURCE_LINES // 2)
    return SourceText(
        title=path, first_line=first, lines=lines[first - 1 : first - 1 + _MAX_SOURCE_LINES]
    )


@_sources.get("/commit")
def read_commit(request: Request, sha: Annotated[str, Query(max_length=64)]) -> SourceText:
    """Return the message of a commit and the paths that it changed."""
    commit = request.app.state.advisor.index().commit(sha)
    if commit is None:
        raise HTTPException(404, f"The repository has no commit {sha!r}.")
    lines = [commit.committed_at, "", *commit.message.split("\n"), "", *commit.paths]
    return SourceText(title=sha, first_line=None, lines=lines)


@_monitoring.get("/health")
def health(request: Request) -> dict[str, Any]:
    """Return that the server is up, with the number of queued and running requests."""
    queue: RequestQueue = request.app.state.queue
    return {"status": "ok", "waiting": queue.n_waiting, "running": queue.n_running}


@_monitoring.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={401: ERROR_RESPONSES[401], 403: ERROR_RESPONSES[403]},
)
def metrics_text(request: Request) -> Response:
    """Return the metrics for Prometheus."""
    return Response(request.app.state.metrics.render(), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    folder = files(__package__) / "page"
    for path, name, media_type in (
        ("/", "page.html", "text/html"),
        ("/page.js", "page.js", "text/javascript"),
        ("/page.css", "page.css", "text/css"),
    ):
        endpoint = _static_endpoint((folder / name).read_bytes(), media_type)
        app.add_route(path, endpoint, include_in_schema=False)


def _static_endpoint(content: bytes, media_type: str) -> Any:
    async def endpoint(request: Request) -> Response:
        del request
        return Response(content, media_type=media_type, headers=_PAGE_HEADERS)

    return endpoint
