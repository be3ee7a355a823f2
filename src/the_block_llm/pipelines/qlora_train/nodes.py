"""Nodes of qlora_train: thin calls."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.params import QloraTrainParams
from the_block_llm.pipelines.qlora_train.plots import plot_training


def train_adapter(
    train_rows: ParquetParts,
    validation_rows: ParquetParts,
    repository: dict[str, Any],
    models: ModelProfiles,
    model: str,
    params: QloraTrainParams,
) -> tuple[Path, dict[str, Any]]:
    """Train; gives the finished adapter folder and the figures of the run."""
    # Importing torch takes seconds that `kedro registry list` need not spend.
    from the_block_llm.pipelines.qlora_train.training import train  # noqa: PLC0415

    profile = resolve_profile(models, model)
    outcome = train(
        TrainingJob(
            profile=profile,
            values=params.apply_to(profile.training),
            force_epochs=params.force_epochs,
            max_steps=params.max_steps,
            train_folder=train_rows.folder,
            validation_folder=validation_rows.folder,
            work_folder=Path(params.work_folder),
            git_commit=repository["head"],
        )
    )
    return outcome.adapter_folder, outcome.metrics


def draw_training(metrics: dict[str, Any]) -> Figure:
    """Draw the run's loss curves."""
    return plot_training(metrics)
