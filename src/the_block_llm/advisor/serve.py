"""``kedro serve``: the advisor over HTTP."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import click
from rich import reconfigure

from the_block_llm.advisor.models.registry import check_model
from the_block_llm.advisor.serving.access import KEY_VARIABLE, check_exposure

HELP: Final = f"""Serve the tuned model over HTTP with an OpenAI-compatible API.

By default only this machine can connect. Any other --host requires an API key in the environment
variable {KEY_VARIABLE}, which clients then send as their API key.

\b
Examples:
  kedro serve                                       http://127.0.0.1:8080
  {KEY_VARIABLE}=$(cat key) kedro serve --host 0.0.0.0
"""
OPTIONS: Final[list[click.Parameter]] = [
    click.Option(["--host"], default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.Option(
        ["--port"], default=8080, show_default=True, type=click.IntRange(0, 65535),
        help="Port to listen on; 0 selects a free one.",
    ),
    click.Option(
        ["--model"], metavar="NAME",
        help="Model for requests that name none: a profile, profile@version or profile@base.",
    ),
    click.Option(["--env", "-e"], metavar="ENV", help="Configuration environment."),
]  # fmt: skip


def serve(
    load_parameters: Callable[[str | None], Mapping[str, Any]],
    *,
    host: str,
    port: int,
    model: str | None,
    env: str | None,
) -> None:
    """Run the server until it is stopped.

    Args:
        load_parameters: Returns the project's parameters for an environment.
        host: Address to listen on.
        port: Port to listen on.
        model: Model for requests that name none.
        env: Configuration environment.

    Raises:
        BlockError: The server cannot start.
    """
    key = os.environ.get(KEY_VARIABLE) or None
    check_exposure(host, key)
    reconfigure(stderr=True)
    parameters = load_parameters(env)
    check_model(parameters, model)
    # Imported here, so that --help does not import torch.
    from the_block_llm.advisor.serving.server import run_server  # noqa: PLC0415

    run_server(parameters, host=host, port=port, key=key, model=model)
