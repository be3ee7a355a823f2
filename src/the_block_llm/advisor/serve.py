"""``kedro serve``: the advisor over HTTP."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import click
from rich import reconfigure

from the_block_llm.advisor.serving.access import KEY_VARIABLE, check_exposure

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
