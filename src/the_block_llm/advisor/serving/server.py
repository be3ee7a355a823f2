"""Running the application with uvicorn."""

import logging
import socket
from collections.abc import Mapping
from typing import Any, Final

import uvicorn

from the_block_llm.advisor.advisor import Advisor
from the_block_llm.advisor.serving.access import is_loopback
from the_block_llm.advisor.serving.app import create_app
from the_block_llm.errors import ServerError

_log = logging.getLogger(__name__)
_CONNECTIONS: Final = 512  # open at once; each may hold one body


def run_server(
    parameters: Mapping[str, Any], *, host: str, port: int, key: str | None, model: str | None
) -> None:
    """Serve until SIGINT or SIGTERM; answers under way get a moment to finish.

    Raises:
        ServerError: The address cannot be listened on.
        BlockError: The advising model cannot be had.
    """
    advisor = Advisor(parameters)
    # A wrong name or a missing adapter is said before anything listens.
    advisor.choices.choose("advisor", model)
    listening = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    _log.info(
        "Loading the model, then serving on http://%s:%d (Ctrl-C stops)",
        shown, listening.getsockname()[1], extra={"markup": False},
    )  # fmt: skip
    app = create_app(advisor, key=key, only_loopback=is_loopback(host), model=model)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=round(advisor.params.serve.shutdown_timeout_s) or 1,
        server_header=False,
    )
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServerError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}. Choose another with "
            "--host or --port; --port 0 takes a free one."
        ) from error
