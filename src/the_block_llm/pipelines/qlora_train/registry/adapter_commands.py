"""``kedro adapters``: list, compare and prune what was trained."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click
from rich import get_console
from rich.table import Column, Table
from rich.text import Text

from the_block_llm.models.profiles import profile_name
from the_block_llm.pipelines.qlora_train.registry.adapter_versions import (
    AdapterVersion,
    adapter_versions,
    compare_versions,
    delete_versions,
    prunable,
)

ParametersOf = Callable[[Any], Callable[[str | None], Mapping[str, Any]]]
"""From the project to its parameters in a configuration environment."""
Guard = Callable[..., Any]
"""Runs a command; an error that is the user's to mend becomes one line."""

_ENV: Final = click.option("--env", "-e", metavar="ENV", help="Configuration environment.")
_ALL: Final = click.option("--all", "everything", is_flag=True, help="Of every profile.")


def adapters_group(parameters_of: ParametersOf, guard: Guard) -> click.Group:
    """The commands under ``kedro adapters``."""

    @click.group()
    def adapters() -> None:
        """List, compare and prune trained adapters. Nothing is deleted unasked.

        \b
        Example:
          kedro adapters list
        """  # noqa: D301  # click wants the character itself

    @adapters.command("list")
    @_ALL
    @_ENV
    @click.pass_obj
    def list_versions(project: Any, /, everything: bool, env: str | None) -> None:
        """List the versions of the chosen profile, oldest first.

        \b
        Examples:
          kedro adapters list
          kedro adapters list --all      of every profile
        """  # noqa: D301  # click wants the character itself
        guard(lambda: _list(parameters_of(project)(env), everything))

    @adapters.command("compare")
    @click.argument("first")
    @click.argument("second")
    @_ENV
    @click.pass_obj
    def compare(project: Any, /, first: str, second: str, env: str | None) -> None:
        """Show where two versions differ: parameters, data, libraries, figures.

        FIRST and SECOND are versions as `kedro adapters list` shows them, or PROFILE/VERSION.

        \b
        Example:
          kedro adapters compare 2026-11-24T20.21.07.120000Z 2026-11-25T11.33.12.995160Z
        """  # noqa: D301  # click wants the character itself
        guard(lambda: _compare(parameters_of(project)(env), first, second))

    @adapters.command("prune")
    @click.option("--keep", type=click.IntRange(min=1), default=1, help="Newest to keep; 1.")
    @click.option("--yes", "-y", "confirmed", is_flag=True, help="Do not ask.")
    @_ALL
    @_ENV
    @click.pass_obj
    def prune(
        project: Any, /, keep: int, confirmed: bool, everything: bool, env: str | None
    ) -> None:
        """Delete old versions, after asking; the newest and the best always stay.

        \b
        Examples:
          kedro adapters prune --keep 3
          kedro adapters prune --all --yes     of every profile, without asking
        """  # noqa: D301  # click wants the character itself
        guard(lambda: _prune(parameters_of(project)(env), everything, keep, confirmed))

    return adapters


def _list(parameters: Mapping[str, Any], everything: bool) -> None:
    versions = _versions(parameters, everything)
    if not versions:
        click.echo("There is no adapter yet. Train one with `kedro run --pipeline=qlora_train`.")
        return
    get_console().print(_table(versions))


def _compare(parameters: Mapping[str, Any], first: str, second: str) -> None:
    differing = compare_versions(_folder(parameters), first, second)
    if not differing:
        click.echo("They do not differ.")
        return
    table = Table("", first, second, box=None, pad_edge=False)
    for name, one, two in differing:
        table.add_row(name, Text(one), Text(two))
    get_console().print(table)


def _prune(parameters: Mapping[str, Any], everything: bool, keep: int, confirmed: bool) -> None:
    gone = prunable(_versions(parameters, everything), keep)
    if not gone:
        click.echo("There is nothing to delete: the newest and the best are kept.")
        return
    get_console().print(_table(gone))
    size = f"{sum(version.size_bytes for version in gone) / 2**20:,.1f} MB"
    if confirmed or click.confirm(f"Delete {len(gone)} adapters, {size}?"):
        delete_versions(gone)
        click.echo(f"Deleted {len(gone)} adapters, {size}.")


def _versions(parameters: Mapping[str, Any], everything: bool) -> list[AdapterVersion]:
    profile = None if everything else profile_name(parameters["model"])
    return adapter_versions(_folder(parameters), profile)


def _folder(parameters: Mapping[str, Any]) -> Path:
    return Path(parameters["qlora_train"]["work_folder"])


def _table(versions: list[AdapterVersion]) -> Table:
    # Versions in full, however narrow the terminal: they are what compare asks for.
    widest = max(len(version.version) for version in versions)
    version_column = Column("version", no_wrap=True, min_width=widest)
    table = Table(
        "profile", version_column, "steps", "loss", "commit", "MB", "",
        box=None, pad_edge=False,
    )  # fmt: skip
    for one in versions:
        marks = [
            word for word, is_so in (("best", one.is_best), ("latest", one.is_latest)) if is_so
        ]
        table.add_row(
            one.profile,
            Text(one.version),
            "–" if one.steps is None else f"{one.steps:,}",
            f"{_loss(one.validation_loss_before)} → {_loss(one.validation_loss_after)}",
            Text((one.git_commit or "–")[:8]),
            f"{one.size_bytes / 2**20:,.1f}",
            ", ".join(marks),
        )
    return table


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
