"""Nodes of qlora_train: thin calls."""

from pathlib import Path
from typing import Any

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import StoppedOnRequest
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.qlora_train.job import TrainingJob, training_job
from the_block_llm.pipelines.qlora_train.params import QloraTrainParams


def check_training(
    train_rows: ParquetTable,
    validation_rows: ParquetTable,
    repository: dict[str, Any],
    models: ModelProfiles,
    model: str,
    params: QloraTrainParams,
    row_facts: dict[str, Any],
) -> dict[str, Any]:
    """Say what the run will take, and refuse what would not fit."""
    # Importing torch takes seconds that `kedro registry list` need not spend.
    from the_block_llm.pipelines.qlora_train.loop.tensorboard import check_tensorboard  # noqa: PLC0415
    from the_block_llm.pipelines.qlora_train.preflight.preflight import preflight  # noqa: PLC0415

    if params.tensorboard:
        check_tensorboard()
    job = _job(train_rows, validation_rows, repository, models, model, params, row_facts)
    return preflight(job, with_speed=params.preflight_only)


def train_adapter(
    train_rows: ParquetTable,
    validation_rows: ParquetTable,
    repository: dict[str, Any],
    models: ModelProfiles,
    model: str,
    params: QloraTrainParams,
    row_facts: dict[str, Any],
    preflight: dict[str, Any],
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Train; gives the finished adapter folder, the figures of the run, and the answers."""
    if params.preflight_only:
        raise StoppedOnRequest(
            "Nothing was trained: qlora_train.preflight_only is true. The table above is kept in "
            "data/08_reporting/training_preflight.json.",
            exit_code=0,
        )
    from the_block_llm.pipelines.qlora_train.launch.launcher import train_in_processes  # noqa: PLC0415

    del preflight
    job = _job(train_rows, validation_rows, repository, models, model, params, row_facts)
    outcome = train_in_processes(job)
    return outcome.adapter_folder, outcome.metrics, outcome.answers


def draw_training(metrics: dict[str, Any]) -> tuple[Any, Any]:
    """Draw the run's loss curves and its memory; gives two matplotlib figures."""
    # Here, so that looking at the project's pipelines need not wait for matplotlib; for the same
    # reason no Figure is in the annotations, which Kedro and Kedro-Viz resolve.
    from the_block_llm.pipelines.qlora_train.plots import (  # noqa: PLC0415
        plot_memory,
        plot_training,
    )

    return plot_training(metrics), plot_memory(metrics)


def _job(
    train_rows: ParquetTable,
    validation_rows: ParquetTable,
    repository: dict[str, Any],
    models: ModelProfiles,
    model: str,
    params: QloraTrainParams,
    row_facts: dict[str, Any],
) -> TrainingJob:
    # Training draws rows in any order, so those in an object store are copied once.
    copies = Path(params.work_folder) / ".rows"
    return training_job(
        resolve_profile(models, model),
        params,
        train_folder=_on_this_machine(train_rows, copies / "train"),
        validation_folder=_on_this_machine(validation_rows, copies / "validation"),
        git_commit=repository["head"],
        row_facts=row_facts,
    )


def _on_this_machine(rows: ParquetTable, copies: Path) -> Path:
    # The last part of a table's folder names its profile, or the repository chosen alone.
    return rows.ensure_local(copies / rows.folder.name)
