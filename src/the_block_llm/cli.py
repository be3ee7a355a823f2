"""Commands of this project, in addition to those of Kedro."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.startup import ProjectMetadata
from rich.console import Console

from the_block_llm.advisor import cli as ask_command
from the_block_llm.advisor import serve as serve_command
from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.datasets.project import OpenProject, Project
from the_block_llm.datasets.storage import storage_location
from the_block_llm.durable_files import storage_cause
from the_block_llm.errors import StoppedOnRequest, user_error_cause
from the_block_llm.pipelines.qlora_train.launch import training_job_command
from the_block_llm.pipelines.qlora_train.registry.adapter_commands import adapters_group
from the_block_llm.pipelines.sequence_build.inspect import cli as inspect_command
from the_block_llm.planning import command as estimate_command
from the_block_llm.project.config_loader import config_loader, project_parameters
from the_block_llm.project.run_options import check_run_options

_RUN_HELP: Final = """Read a repository, build sequences, train an adapter, evaluate it.

\b
Examples:
  kedro run                                          the project's own history
  kedro run --params=repository=PATH                 on another repository
  kedro run --params=repository=PATH,model=llama-3.1-8b
  kedro run --pipeline=qlora_train --params=qlora_train.max_steps=20
  kedro run --pipeline=qlora_train --params=qlora_train.preflight_only=true
  kedro run --tags=report                            only reports and plots, from stored data

Every parameter, its unit and its default: docs, "Parameters", or conf/base.
"""


@click.group(name="the_block_llm")
def cli() -> None:
    """Turn a git repository into a local architecture advisor."""


@click.pass_obj
def _run(metadata: ProjectMetadata, /, **options: Any) -> Any:
    # Relative paths in parameters are relative to the project, in any working directory.
    os.chdir(metadata.project_path)
    return _exit_on_user_error(_checked_run, **options)


def _checked_run(**options: Any) -> Any:
    check_run_options(options)
    assert kedro_run.callback is not None  # noqa: S101  # a command with a callback
    return kedro_run.callback(**options)


@click.pass_obj
def _ask(metadata: ProjectMetadata, /, **options: Any) -> None:
    retrieval = not options["no_retrieval"]
    load_parameters = (
        _parameter_loader_with_tables(metadata) if retrieval else _parameter_loader(metadata)
    )
    _exit_on_user_error(ask_command.ask, load_parameters, **options)


@click.pass_obj
def _serve(metadata: ProjectMetadata, /, **options: Any) -> None:
    _exit_on_user_error(serve_command.serve, _parameter_loader_with_tables(metadata), **options)


@click.pass_obj
def _rows(metadata: ProjectMetadata, /, **options: Any) -> None:
    _exit_on_user_error(inspect_command.rows, _project_opener(metadata), **options)


@click.pass_obj
def _audit(metadata: ProjectMetadata, /, **options: Any) -> None:
    _exit_on_user_error(inspect_command.audit, _project_opener(metadata), **options)


@click.pass_obj
def _estimate(metadata: ProjectMetadata, /, **options: Any) -> None:
    _exit_on_user_error(estimate_command.run_estimate, _parameter_loader(metadata), **options)


@click.pass_obj
def _training_job(metadata: ProjectMetadata, /, **options: Any) -> None:
    _exit_on_user_error(training_job_command.write_job, _project_opener(metadata), **options)


def _project_opener(metadata: ProjectMetadata) -> OpenProject:
    os.chdir(metadata.project_path)

    def open_project(env: str | None, model: str | None) -> Project:
        params = {} if model is None else {"model": model}
        parameters = project_parameters(metadata.project_path, env, params)
        loader = config_loader(metadata.project_path, env, params)

        def folder_of(name: str) -> StorageLocation:
            location = storage_location(loader, loader["catalog"][name]["filepath"])
            return metadata.project_path / location if isinstance(location, Path) else location

        return Project(parameters, folder_of)

    return open_project


def _parameter_loader(metadata: ProjectMetadata) -> Callable[[str | None], Mapping[str, Any]]:
    os.chdir(metadata.project_path)
    return lambda env: project_parameters(metadata.project_path, env)


def _parameter_loader_with_tables(
    metadata: ProjectMetadata,
) -> Callable[[str | None], Mapping[str, Any]]:
    """Return a loader of parameters that point to local copies of remote tables."""
    os.chdir(metadata.project_path)

    def parameters(env: str | None) -> Mapping[str, Any]:
        # Imported here, so that --help does not import pyarrow.
        from the_block_llm.advisor.index.remote_tables import with_local_tables  # noqa: PLC0415

        loader = config_loader(metadata.project_path, env)
        values = project_parameters(metadata.project_path, env)
        return with_local_tables(values, storage_location(loader))

    return parameters


def _exit_on_user_error(command: Callable[..., Any], *values: Any, **options: Any) -> Any:
    """Call ``command``; print errors that the user can fix without a traceback, and exit."""
    try:
        return command(*values, **options)
    except Exception as error:
        user_error = user_error_cause(error) or storage_cause(error)
        if user_error is None:
            raise
        if isinstance(user_error, StoppedOnRequest):
            Console(stderr=True).print(str(user_error), markup=False, highlight=False)
            sys.exit(user_error.exit_code)
        Console(stderr=True).print(f"Error: {user_error}", style="bold red", markup=False)
        sys.exit(1)


class _RunCommand(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for argument in args:
            try:
                argument.encode()
            except UnicodeEncodeError:
                raise click.UsageError(
                    f"{argument!a} is not UTF-8, but folder names must be. Rename the folder, or "
                    "use a symbolic link to it."
                ) from None
        return super().parse_args(ctx, args)


cli.add_command(_RunCommand("run", callback=_run, params=kedro_run.params, help=_RUN_HELP))
for _name, _callback, _options, _help in (
    ("ask", _ask, ask_command.OPTIONS, ask_command.HELP),
    ("serve", _serve, serve_command.OPTIONS, serve_command.HELP),
    ("rows", _rows, inspect_command.ROWS_OPTIONS, inspect_command.ROWS_HELP),
    ("audit", _audit, inspect_command.AUDIT_OPTIONS, inspect_command.AUDIT_HELP),
    ("estimate", _estimate, estimate_command.OPTIONS, estimate_command.HELP),
    ("training-job", _training_job, training_job_command.OPTIONS, training_job_command.HELP),
):
    cli.add_command(click.Command(_name, callback=_callback, params=_options, help=_help))
cli.add_command(adapters_group(_parameter_loader, _exit_on_user_error))
