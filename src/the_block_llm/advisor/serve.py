"""``kedro serve``: the advisor over HTTP."""

import ipaddress
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import click
from rich import reconfigure

from the_block_llm.errors import ServerError

KEY_VARIABLE: Final = "THE_BLOCK_API_KEY"
_SHORTEST_KEY: Final = 16
HELP: Final = f"""Serve the tuned model over HTTP, as OpenAI's clients and editors speak it.

Only this machine can reach it unless --host says otherwise; any other address needs a key
in the environment variable {KEY_VARIABLE}, which clients then send as their API key.

\b
Examples:
  kedro serve                                       http://127.0.0.1:8080
  {KEY_VARIABLE}=$(cat key) kedro serve --host 0.0.0.0
"""
OPTIONS: Final[list[click.Parameter]] = [
    click.Option(["--host"], default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.Option(
        ["--port"], default=8080, show_default=True, type=click.IntRange(0, 65535),
        help="0 takes a free one.",
    ),
    click.Option(
        ["--model"], metavar="NAME",
        help="What is asked where a request names no model: a profile, profile@version or "
        "profile@base.",
    ),
    click.Option(["--env", "-e"], metavar="ENV", help="Configuration environment."),
]  # fmt: skip


def serve(
    parameters: Callable[[str | None], Mapping[str, Any]],
    *,
    host: str,
    port: int,
    model: str | None,
    env: str | None,
) -> None:
    """Serve until stopped.

    Raises:
        BlockError: The server cannot start.
    """
    key = os.environ.get(KEY_VARIABLE) or None
    check_exposure(host, key)
    reconfigure(stderr=True)
    # Here, so that --help need not wait for torch.
    from the_block_llm.advisor.serving.server import run_server  # noqa: PLC0415

    run_server(parameters(env), host=host, port=port, key=key, model=model)


def check_exposure(host: str, key: str | None) -> None:
    """Refuse to be reachable by others without a key.

    Raises:
        ServerError: There is no key, or it is short enough to be guessed.
    """
    if key is not None and len(key) < _SHORTEST_KEY:
        raise ServerError(
            f"The key in {KEY_VARIABLE} has {len(key)} characters; at least {_SHORTEST_KEY} are "
            "needed. Make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if key is None and not is_loopback(host):
        raise ServerError(
            f"{host} can be reached from other machines, so a key is needed. Put one into the "
            f"environment variable {KEY_VARIABLE}, or serve on 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """True for names and addresses that only this machine can reach.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "box")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
