"""The application: routes, sources behind citations, the page, and how it starts and ends."""

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
from the_block_llm.advisor.serving.auth_middleware import Guard
from the_block_llm.advisor.serving.error_responses import ERRORS, HANDLED, error_reply
from the_block_llm.advisor.serving.metrics import CONTENT_TYPE, Counted, Metrics
from the_block_llm.advisor.serving.request_handler import Answering
from the_block_llm.advisor.serving.request_queue import Turns

_SHOWN_LINES: Final = 400
_PAGE_HEADERS: Final = {
    # Nothing from elsewhere, nothing inline: what a model writes stays text.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_sources = APIRouter(prefix="/v1/sources", responses=ERRORS)
_state = APIRouter()


def create_app(
    advisor: Advisor,
    *,
    key: str | None = None,
    only_loopback: bool = True,
    model: str | None = None,
) -> FastAPI:
    """Make the application; the advising model is loaded when it starts.

    Args:
        advisor: Answers.
        key: Clients must send it; none: they need not.
        only_loopback: Answer only to names of this machine.
        model: What is asked where a request names none.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        turns = app.state.turns = Turns(advisor.params.serve)
        metrics.watch(turns)
        app.state.answering = Answering(turns, metrics)
        # Before the first client: a first question must not wait for gigabytes.
        await turns.run(lambda: advisor.load(advisor.choices.choose("advisor", model)))
        try:
            yield
        finally:
            await asyncio.to_thread(turns.close)

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
        Guard,
        key=key,
        only_loopback=only_loopback,
        most_bytes=advisor.params.serve.max_body_kib * 1024,
    )
    app.add_middleware(Counted, metrics=metrics)
    for kind in HANDLED:
        app.add_exception_handler(kind, _say_error)
    app.include_router(openai_routes.router)
    app.include_router(_sources)
    app.include_router(_state)
    _add_page(app)
    return app


async def _say_error(request: Request, error: Exception) -> Response:
    del request
    return error_reply(error)


class SourceText(BaseModel):
    """Lines of a file, or a commit, to read."""

    title: str
    first_line: int | None
    lines: list[str]


# Looked up in the index, by exact name: nothing here ever becomes a path on this machine.
@_sources.get("/file")
def read_file(
    request: Request,
    path: Annotated[str, Query(max_length=4096)],
    line: Annotated[int, Query(ge=1, le=10**9)] = 1,
) -> SourceText:
    """Lines of a file of the repository, around ``line``."""
    text = request.app.state.advisor.index().file_text(path)
    if text is None:
        raise HTTPException(404, f"The repository has no file {path[:200]!r}.")
    lines = text.removesuffix("\n").split("\n")
    first = max(1, min(line, len(lines)) - _SHOWN_LINES // 2)
    return SourceText(
        title=path, first_line=first, lines=lines[first - 1 : first - 1 + _SHOWN_LINES]
    )


@_sources.get("/commit")
def read_commit(request: Request, sha: Annotated[str, Query(max_length=64)]) -> SourceText:
    """A commit's message and the paths it changed."""
    found = request.app.state.advisor.index().commit(sha)
    if found is None:
        raise HTTPException(404, f"The repository has no commit {sha!r}.")
    lines = [found.committed_at, "", *found.message.split("\n"), "", *found.paths]
    return SourceText(title=sha, first_line=None, lines=lines)


@_state.get("/health")
def health(request: Request) -> dict[str, Any]:
    """That the server is there."""
    turns: Turns = request.app.state.turns
    return {"status": "ok", "waiting": turns.waiting, "running": turns.running}


@_state.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={401: ERRORS[401], 403: ERRORS[403]},
)
def metrics_text(request: Request) -> Response:
    """Figures for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    folder = files(__package__) / "page"
    for path, name, kind in (
        ("/", "page.html", "text/html"),
        ("/page.js", "page.js", "text/javascript"),
        ("/page.css", "page.css", "text/css"),
    ):
        app.add_route(path, _page((folder / name).read_bytes(), kind), include_in_schema=False)


def _page(content: bytes, kind: str) -> Any:
    async def show(request: Request) -> Response:
        del request
        return Response(content, media_type=kind, headers=_PAGE_HEADERS)

    return show
