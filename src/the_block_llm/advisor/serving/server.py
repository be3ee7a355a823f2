"""Runs the application with uvicorn."""

import logging
import socket
from collections.abc import Mapping
from typing import Any, Final

import uvicorn

from the_block_llm.advisor.advisor import Advisor
from the_block_llm.advisor.serving.access import is_loopback
from the_block_llm.advisor.serving.app import create_app
from the_block_llm.errors import ServerError
from the_block_llm.os_errors import cause_of

_log = logging.getLogger(__name__)
_MAX_CONNECTIONS: Final = 512  # each may hold one request body in memory


def run_server(
    parameters: Mapping[str, Any], *, host: str, port: int, key: str | None, model: str | None
) -> None:
    """Serve until SIGINT or SIGTERM, then wait briefly for running answers.

    Args:
        parameters: All parameters of the project.
        host: Address to listen on.
        port: Port to listen on; 0 selects a free one.
        key: API key that clients must send; None requires none.
        model: Model for requests that name none.

    Raises:
        ServerError: The address is not available.
        BlockError: The model is not available.
    """
    advisor = Advisor(parameters)
    # Fail on a wrong name or a missing adapter before the port is opened.
    advisor.registry.resolve("advisor", model)
    listening_socket = bind_socket(host, port)
    url_host = f"[{host}]" if ":" in host else host
    _log.info(
        "Loading the model, then serving on http://%s:%d (Ctrl-C stops)",
        url_host, listening_socket.getsockname()[1], extra={"markup": False},
    )  # fmt: skip
    app = create_app(advisor, key=key, loopback_only=is_loopback(host), model=model)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=round(advisor.params.serve.shutdown_timeout_s) or 1,
        server_header=False,
    )
    with listening_socket:
        uvicorn.Server(config).run(sockets=[listening_socket])


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address.

    Raises:
        ServerError: The address is not available.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServerError(
            f"Cannot listen on {host}:{port}: {cause_of(error)}. Choose another address "
            "with --host or --port; --port 0 selects a free port."
        ) from error
