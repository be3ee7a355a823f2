"""Nodes of the pipeline ``qlora_train``."""

from pathlib import Path
from typing import Any

from the_block_llm.datasets.cutoff import stored_repository
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import StoppedOnRequest
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.qlora_train.job import TrainingJob, make_training_job
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
    """Report what the run needs, and raise an error if it does not fit."""
    # Imported here, since torch takes seconds to import and `kedro registry list` does not use it.
    from the_block_llm.pipelines.qlora_train.loop.tensorboard import check_tensorboard  # noqa: PLC0415
    from the_block_llm.pipelines.qlora_train.preflight.preflight import run_preflight  # noqa: PLC0415

    if params.tensorboard:
        check_tensorboard()
    job = _job(train_rows, validation_rows, repository, models, model, params, row_facts)
    return run_preflight(job, with_throughput=params.preflight_only)


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
    """Train an adapter.

    ``preflight`` is an input only to run after ``check_training``.

    Returns:
        The adapter's folder, the run's metrics, and the answers to the probe questions.

    Raises:
        StoppedOnRequest: ``params.preflight_only`` is set.
    """
    if params.preflight_only:
        raise StoppedOnRequest(
            "Nothing was trained: qlora_train.preflight_only is true. The table above is saved in "
            "data/08_reporting/training_preflight.json.",
            exit_code=0,
        )
    from the_block_llm.pipelines.qlora_train.launch.launcher import train_distributed  # noqa: PLC0415

    del preflight
    job = _job(train_rows, validation_rows, repository, models, model, params, row_facts)
    outcome = train_distributed(job)
    return outcome.adapter_folder, outcome.metrics, outcome.answers


def draw_training(metrics: dict[str, Any]) -> tuple[Any, Any]:
    """Plot the run's loss curves and its memory, as two matplotlib figures."""
    # Imported here, so that listing pipelines does not import matplotlib. No annotation names
    # Figure for the same reason: Kedro and Kedro-Viz resolve annotations.
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
    # Training reads rows in random order, so rows in an object store are copied once.
    copies = Path(params.work_folder) / ".rows"
    return make_training_job(
        resolve_profile(models, model),
        params,
        train_folder=_local_folder(train_rows, copies / "train"),
        validation_folder=_local_folder(validation_rows, copies / "validation"),
        git_commit=_head(repository),
        row_facts=row_facts,
    )


def _head(repository: dict[str, Any]) -> str:
    with stored_repository():
        return str(repository["head"])


def _local_folder(rows: ParquetTable, copies: Path) -> Path:
    # A table's folder is named after its profile, or after the only repository.
    return rows.ensure_local(copies / rows.folder.name)
