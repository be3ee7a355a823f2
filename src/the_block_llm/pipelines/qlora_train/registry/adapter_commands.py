"""``kedro adapters``: list, compare and prune trained adapters."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import click
from rich import get_console
from rich.table import Column, Table
from rich.text import Text

from the_block_llm.models.profiles import profile_name
from the_block_llm.pipelines.qlora_train.registry.adapter_versions import (
    AdapterVersion,
    compare_versions,
    delete_versions,
    list_adapter_versions,
    versions_to_prune,
)

LoadParameters = Callable[[Any], Callable[[str | None], Mapping[str, Any]]]
"""Maps the project to a function that loads its parameters for a configuration environment."""
LockProject = Callable[[Any, Mapping[str, Any]], AbstractContextManager[object]]
"""Keeps runs out of the project, given its parameters, while its adapters are deleted."""
RunCommand = Callable[..., Any]
"""Runs a command, and reports a user error in one line instead of a traceback."""

_ENV: Final = click.option("--env", "-e", metavar="ENV", help="Configuration environment.")
_ALL: Final = click.option("--all", "all_profiles", is_flag=True, help="Include every profile.")


def adapters_group(
    load_parameters: LoadParameters, lock_project: LockProject, run_command: RunCommand
) -> click.Group:
    """Return the command group ``kedro adapters``."""

    @click.group()
    def adapters() -> None:
        """List, compare and prune trained adapters. Only prune deletes, after confirmation.

        \b
        Example:
          kedro adapters list
        """  # noqa: D301  # click reads the character itself

    @adapters.command("list")
    @_ALL
    @_ENV
    @click.pass_obj
    def list_versions(project: Any, /, all_profiles: bool, env: str | None) -> None:
        """List the versions of the selected profile, oldest first.

        \b
        Examples:
          kedro adapters list
          kedro adapters list --all      all profiles
        """  # noqa: D301  # click reads the character itself
        run_command(lambda: _list(load_parameters(project)(env), all_profiles))

    @adapters.command("compare")
    @click.argument("first")
    @click.argument("second")
    @_ENV
    @click.pass_obj
    def compare(project: Any, /, first: str, second: str, env: str | None) -> None:
        """Show the differences between two versions: parameters, data, libraries, metrics.

        FIRST and SECOND are versions as `kedro adapters list` shows them, or PROFILE/VERSION.

        \b
        Example:
          kedro adapters compare 2026-11-24T20.21.07.120000Z 2026-11-25T11.33.12.995160Z
        """  # noqa: D301  # click reads the character itself
        run_command(lambda: _compare(load_parameters(project)(env), first, second))

    @adapters.command("prune")
    @click.option(
        "--keep", type=click.IntRange(min=1), default=1, show_default=True,
        help="Number of newest versions to keep.",
    )  # fmt: skip
    @click.option("--yes", "-y", "confirmed", is_flag=True, help="Do not ask for confirmation.")
    @_ALL
    @_ENV
    @click.pass_obj
    def prune(
        project: Any, /, keep: int, confirmed: bool, all_profiles: bool, env: str | None
    ) -> None:
        """Delete old versions, after confirmation; the newest and the best are always kept.

        \b
        Examples:
          kedro adapters prune --keep 3
          kedro adapters prune --all --yes     all profiles, without confirmation
        """  # noqa: D301  # click reads the character itself

        def prune_versions() -> None:
            parameters = load_parameters(project)(env)
            lock = lock_project(project, parameters)
            _prune(parameters, lock, all_profiles, keep, confirmed)

        run_command(prune_versions)

    return adapters


def _list(parameters: Mapping[str, Any], all_profiles: bool) -> None:
    versions = _versions(parameters, all_profiles)
    if not versions:
        click.echo("There is no adapter yet. Train one with `kedro run --pipeline=qlora_train`.")
        return
    get_console().print(_table(versions))


def _compare(parameters: Mapping[str, Any], first: str, second: str) -> None:
    differences = compare_versions(_work_folder(parameters), first, second)
    if not differences:
        click.echo("The versions do not differ.")
        return
    table = Table("", first, second, box=None, pad_edge=False)
    for name, first_value, second_value in differences:
        table.add_row(name, Text(first_value), Text(second_value))
    get_console().print(table)


def _prune(
    parameters: Mapping[str, Any],
    lock: AbstractContextManager[object],
    all_profiles: bool,
    keep: int,
    confirmed: bool,
) -> None:
    pruned = versions_to_prune(_versions(parameters, all_profiles), keep)
    if not pruned:
        click.echo("There is nothing to delete: the newest and the best are kept.")
        return
    get_console().print(_table(pruned))
    size = f"{sum(version.size_bytes for version in pruned) / 2**20:,.1f} MB"
    if confirmed or click.confirm(f"Delete {len(pruned)} adapters, {size}?"):
        with lock:  # a run may be evaluating one of them
            delete_versions(pruned)
        click.echo(f"Deleted {len(pruned)} adapters, {size}.")


def _versions(parameters: Mapping[str, Any], all_profiles: bool) -> list[AdapterVersion]:
    profile = None if all_profiles else profile_name(parameters["model"])
    return list_adapter_versions(_work_folder(parameters), profile)


def _work_folder(parameters: Mapping[str, Any]) -> Path:
    return Path(parameters["qlora_train"]["work_folder"])


def _table(versions: list[AdapterVersion]) -> Table:
    # Never truncated, since they are the arguments of `kedro adapters compare`.
    widest = max(len(version.version) for version in versions)
    version_column = Column("version", no_wrap=True, min_width=widest)
    table = Table(
        "profile", version_column, "steps", "loss", "commit", "MB", "",
        box=None, pad_edge=False,
    )  # fmt: skip
    for version in versions:
        flags = (("best", version.is_best), ("latest", version.is_latest))
        loss_before = _format_loss(version.validation_loss_before)
        loss_after = _format_loss(version.validation_loss_after)
        table.add_row(
            version.profile,
            Text(version.version),
            "–" if version.steps is None else f"{version.steps:,}",
            f"{loss_before} → {loss_after}",
            Text((version.git_commit or "–")[:8]),
            f"{version.size_bytes / 2**20:,.1f}",
            ", ".join(name for name, is_set in flags if is_set),
        )
    return table


def _format_loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
