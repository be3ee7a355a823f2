"""Metrics of the server in the text format of Prometheus."""

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from the_block_llm.advisor.serving.request_queue import RequestQueue

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The metrics, in a separate registry: servers in one process do not share them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter(
            "block_requests", "Requests by route and status.", ["route", "status"], **registry
        )
        self.tokens = Counter(
            "block_tokens", "Prompt and completion tokens.", ["model", "kind"], **registry
        )
        self.citations = Counter("block_citations", "Citations in answers.", ["exists"], **registry)
        self.cancelled = Counter(
            "block_cancelled", "Answers that failed or whose client disconnected.", **registry
        )
        self.first_chunk_s = Histogram(
            "block_first_word_seconds", "Time from request to first chunk, including the queue.",
            buckets=_BUCKETS_S, **registry,
        )  # fmt: skip
        self.answer_s = Histogram(
            "block_answer_seconds", "Time from request to the end of the answer.",
            buckets=_BUCKETS_S, **registry,
        )  # fmt: skip

    def track_queue(self, queue: RequestQueue) -> None:
        """Add gauges for the queued requests and the running answers."""
        waiting = Gauge("block_waiting", "Queued requests.", registry=self._registry)
        waiting.set_function(lambda: queue.n_waiting)
        running = Gauge("block_running", "Running answers.", registry=self._registry)
        running.set_function(lambda: queue.n_running)

    def render(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self._registry)


class MetricsMiddleware:
    """Counts every response by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                # By route, not by path: clients must not be able to create labels.
                route = getattr(scope.get("route"), "path", "none")
                self._metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, count_and_send if scope["type"] == "http" else send)
