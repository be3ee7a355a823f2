"""``kedro training-job``: writes a job for torchrun on several machines.

torchrun starts on every machine, without Kedro. The command writes the job into a shared folder;
torchrun trains it; a ``kedro run --pipelines=qlora_train`` afterwards finds the finished run and
saves the adapter as a new version.
"""

from pathlib import Path
from typing import Final

import click

from the_block_llm.datasets.parquet_table import ParquetTable, write_text_atomically
from the_block_llm.datasets.project import OpenProject, Project
from the_block_llm.datasets.report_files import read_report
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.qlora_train.job import JOB_FILE, make_training_job
from the_block_llm.pipelines.qlora_train.params import QloraTrainParams

HELP: Final = """Write the training job for torchrun on several machines into FOLDER.

\b
Example:
  kedro training-job data/06_models/.job --processes=16

\b
Then on every machine (deploy/ has files for Slurm, Kubernetes and SkyPilot):
  torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 \\
    --module the_block_llm.pipelines.qlora_train.launch.worker FOLDER
Afterwards, once:
  kedro run --pipelines=qlora_train
"""
OPTIONS: Final[list[click.Parameter]] = [
    click.Argument(["folder"], type=click.Path(path_type=Path)),
    click.Option(
        ["--processes"], type=click.IntRange(min=1), required=True,
        help="Total number of processes on all machines, one per GPU.",
    ),
    click.Option(["--model"], metavar="NAME", help="Model profile; default: the parameter model."),
    click.Option(["--env", "-e"], metavar="ENV", help="Configuration environment."),
]  # fmt: skip


def write_job(
    open_project: OpenProject,
    folder: Path,
    processes: int,
    model: str | None,
    env: str | None,
) -> None:
    """Write ``job.json`` into ``folder``.

    Raises:
        ParameterError: ``processes`` does not divide the effective batch.
        TableError: There are no rows yet.
        StorageError: The folder cannot be written.
    """
    project = open_project(env, model)
    params = QloraTrainParams.model_validate(project.parameters["qlora_train"])
    profile = resolve_profile(
        ModelProfiles.model_validate(project.parameters["models"]), project.parameters["model"]
    )
    job = make_training_job(
        profile,
        params.model_copy(update={"n_processes": processes}),
        train_folder=_local_rows(project, "train_rows", folder),
        validation_folder=_local_rows(project, "validation_rows", folder),
        git_commit=read_report(project.folder_of("repository"))["head"],
        row_facts=read_report(project.folder_of("row_facts")),
    )
    job.rows_per_process(processes)  # fail before any machine starts
    write_text_atomically(folder / JOB_FILE, job.model_dump_json(indent=1))
    click.echo(str(folder / JOB_FILE))


def _local_rows(project: Project, name: str, folder: Path) -> Path:
    # Rows in an object store are copied into the job folder, which all machines share.
    table = ParquetTable(project.folder_of(name))
    return table.ensure_local(folder / name).absolute()
