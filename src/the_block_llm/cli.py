"""Commands of this project, beside those of Kedro."""

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
from the_block_llm.errors import StoppedOnRequest, user_error_cause
from the_block_llm.pipelines.qlora_train.launch import training_job_command
from the_block_llm.pipelines.qlora_train.registry.adapter_commands import adapters_group
from the_block_llm.pipelines.sequence_build.inspect import cli as looking
from the_block_llm.planning import command as planning
from the_block_llm.project.config_loader import config_loader, project_parameters
from the_block_llm.project.run_options import check_run_options

_RUN_HELP: Final = """Mine a repository, build sequences, train an adapter, evaluate it.

\b
Examples:
  kedro run                                          all of it, on this project's own history
  kedro run --params=repository=PATH                 on another repository
  kedro run --params=repository=PATH,model=llama-3.1-8b
  kedro run --pipeline=qlora_train --params=qlora_train.max_steps=20
  kedro run --pipeline=qlora_train --params=qlora_train.preflight_only=true
  kedro run --tags=report                            draw and judge again what is stored

Every parameter, its unit and its default: docs, "Parameters", or conf/base.
"""


@click.group(name="the_block_llm")
def cli() -> None:
    """Turn a git repository into a local architecture advisor."""


@click.pass_obj
def _run(metadata: ProjectMetadata, /, **options: Any) -> Any:
    # Relative paths in parameters mean the project's, from whichever folder it is run.
    os.chdir(metadata.project_path)
    return _without_traceback(_checked_run, **options)


def _checked_run(**options: Any) -> Any:
    check_run_options(options)
    assert kedro_run.callback is not None  # noqa: S101  # it is a command with a body
    return kedro_run.callback(**options)


@click.pass_obj
def _ask(metadata: ProjectMetadata, /, **options: Any) -> None:
    searches = not options["no_retrieval"]
    given = _searching(metadata) if searches else _parameters(metadata)
    _without_traceback(ask_command.ask, given, **options)


@click.pass_obj
def _serve(metadata: ProjectMetadata, /, **options: Any) -> None:
    _without_traceback(serve_command.serve, _searching(metadata), **options)


@click.pass_obj
def _rows(metadata: ProjectMetadata, /, **options: Any) -> None:
    _without_traceback(looking.rows, _project(metadata), **options)


@click.pass_obj
def _audit(metadata: ProjectMetadata, /, **options: Any) -> None:
    _without_traceback(looking.audit, _project(metadata), **options)


@click.pass_obj
def _estimate(metadata: ProjectMetadata, /, **options: Any) -> None:
    _without_traceback(planning.run_estimate, _parameters(metadata), **options)


@click.pass_obj
def _training_job(metadata: ProjectMetadata, /, **options: Any) -> None:
    _without_traceback(training_job_command.write_job, _project(metadata), **options)


def _project(metadata: ProjectMetadata) -> OpenProject:
    os.chdir(metadata.project_path)

    def open_project(env: str | None, model: str | None) -> Project:
        params = {} if model is None else {"model": model}
        parameters = project_parameters(metadata.project_path, env, params)
        loader = config_loader(metadata.project_path, env, params)

        def folder_of(name: str) -> StorageLocation:
            where = storage_location(loader, loader["catalog"][name]["filepath"])
            return metadata.project_path / where if isinstance(where, Path) else where

        return Project(parameters, folder_of)

    return open_project


def _parameters(metadata: ProjectMetadata) -> Callable[[str | None], Mapping[str, Any]]:
    os.chdir(metadata.project_path)
    return lambda env: project_parameters(metadata.project_path, env)


def _searching(metadata: ProjectMetadata) -> Callable[[str | None], Mapping[str, Any]]:
    """Parameters of a command that searches the tables, wherever they lie."""
    os.chdir(metadata.project_path)

    def parameters(env: str | None) -> Mapping[str, Any]:
        # Here, so that --help need not wait for pyarrow.
        from the_block_llm.advisor.index.remote_tables import with_local_tables  # noqa: PLC0415

        loader = config_loader(metadata.project_path, env)
        given = project_parameters(metadata.project_path, env)
        return with_local_tables(given, storage_location(loader))

    return parameters


def _without_traceback(work: Callable[..., Any], *values: Any, **options: Any) -> Any:
    try:
        return work(*values, **options)
    except Exception as error:
        mendable = user_error_cause(error)
        if mendable is None:
            raise
        if isinstance(mendable, StoppedOnRequest):
            Console(stderr=True).print(str(mendable), markup=False, highlight=False)
            sys.exit(mendable.exit_code)
        # What, why and the remedy, without a traceback.
        Console(stderr=True).print(f"Error: {mendable}", style="bold red", markup=False)
        sys.exit(1)


class _RunCommand(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in args:
            try:
                word.encode()
            except UnicodeEncodeError:
                raise click.UsageError(
                    f"{word!a} is not UTF-8, as names of folders must be here. Rename the "
                    "folder, or give a symbolic link to it."
                ) from None
        return super().parse_args(ctx, args)


cli.add_command(_RunCommand("run", callback=_run, params=kedro_run.params, help=_RUN_HELP))
for _name, _callback, _options, _help in (
    ("ask", _ask, ask_command.OPTIONS, ask_command.HELP),
    ("serve", _serve, serve_command.OPTIONS, serve_command.HELP),
    ("rows", _rows, looking.ROWS_OPTIONS, looking.ROWS_HELP),
    ("audit", _audit, looking.AUDIT_OPTIONS, looking.AUDIT_HELP),
    ("estimate", _estimate, planning.OPTIONS, planning.HELP),
    ("training-job", _training_job, training_job_command.OPTIONS, training_job_command.HELP),
):
    cli.add_command(click.Command(_name, callback=_callback, params=_options, help=_help))
cli.add_command(adapters_group(_parameters, _without_traceback))
