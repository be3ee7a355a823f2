"""Figures of the server, in Prometheus' text format."""

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from the_block_llm.advisor.serving.request_queue import Turns

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """A registry of its own, so that two servers in one process do not share figures."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter(
            "block_requests", "Requests by route and status.", ["route", "status"], **own
        )
        self.tokens = Counter("block_tokens", "Tokens read and written.", ["model", "kind"], **own)
        self.citations = Counter("block_citations", "Citations in answers.", ["exists"], **own)
        self.cancelled = Counter(
            "block_cancelled", "Answers given up: the client went away, or they failed.", **own
        )
        self.first_word = Histogram(
            "block_first_word_seconds", "From request to first piece, waiting included.",
            buckets=_SECONDS, **own,
        )  # fmt: skip
        self.whole = Histogram(
            "block_answer_seconds", "From request to the answer's end.", buckets=_SECONDS, **own
        )

    def watch(self, turns: Turns) -> None:
        """Show how many wait and run."""
        waiting = Gauge(
            "block_waiting", "Requests that wait for their turn.", registry=self._registry
        )
        waiting.set_function(lambda: turns.waiting)
        running = Gauge("block_running", "Answers being written.", registry=self._registry)
        running.set_function(lambda: turns.running)

    def text(self) -> bytes:
        """All figures."""
        return generate_latest(self._registry)


class Counted:
    """Counts every reply by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # By route, not by path: strangers must not make up labels.
                route = getattr(scope.get("route"), "path", "none")
                self._metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)
