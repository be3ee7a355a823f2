"""Runs the HTTP server on loopback in a thread of the test process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from the_block_llm.advisor.advisor import Advisor
from the_block_llm.advisor.serving.app import create_app
from the_block_llm.advisor.serving.server import bind_socket


@contextmanager
def serve_in_thread(advisor: Advisor, **options: object) -> Iterator[str]:
    """Run a server and yield its URL."""
    listening_socket = bind_socket("127.0.0.1", 0)
    app = create_app(advisor, **options)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening_socket]}, daemon=True
    )
    with listening_socket:
        thread.start()
        while not server.started and thread.is_alive():
            thread.join(0.01)
        assert server.started, "the server did not start"
        try:
            yield f"http://127.0.0.1:{listening_socket.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
