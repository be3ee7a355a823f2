"""The training job: all settings of a run as one serializable value."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import ParameterError, stored_data
from the_block_llm.models.profiles import ModelProfile, TrainingValues
from the_block_llm.models.resource_limits import MemoryLimits
from the_block_llm.pipelines.qlora_train.flatten import flatten
from the_block_llm.pipelines.qlora_train.params import QloraTrainParams

JOB_FILE: Final = "job.json"
"""Name of the file from which worker processes read their job, in a folder that they share."""
# Paths, monitoring, and how rows are split over memory and processes do not change the result:
# a run may be resumed with other values.
_FIELDS_NOT_IN_FINGERPRINT: Final[Any] = {
    "work_folder": True, "train_folder": True, "validation_folder": True, "git_commit": True,
    "restart_training": True, "n_processes": True, "limits": True, "probe_questions": True,
    "probe_new_tokens": True,
    "tensorboard_folder": True,
    "values": {"micro_batch_rows", "logging_steps", "save_steps", "checkpoints_kept"},
    "profile": {"training", "cache_folder"},
}  # fmt: skip


class _CurriculumStage(BaseModel, frozen=True):
    stage: int
    epochs: int


class RowFacts(BaseModel, frozen=True):
    """The fields of the dataset ``row_facts`` that training reads."""

    added_tokens: dict[str, int] = {}
    """Ids of tokens that are missing from the model's tokenizer."""
    curriculum: tuple[_CurriculumStage, ...] = ()


class TrainingJob(BaseModel, frozen=True, extra="forbid"):
    """All settings of a training run."""

    profile: ModelProfile
    values: TrainingValues
    force_epochs: int | None
    max_steps: int | None
    train_folder: Path
    validation_folder: Path
    work_folder: Path
    git_commit: str | None
    early_stopping_patience: int | None = None
    """Validations without an improvement before the run is stopped; ``None``: never."""
    restart_training: bool = False
    """Discard the unfinished run of the profile, if there is one."""
    limits: MemoryLimits = MemoryLimits()
    """Memory that the run may use."""
    n_processes: int = 1
    probe_questions: tuple[str, ...] = ()
    """Prompts of the samples that are generated before training and after every epoch."""
    probe_new_tokens: int = 48
    stage_epochs: dict[int, int] = {}
    """Epochs of each curriculum stage; empty if the token budget determines the epochs."""
    added_tokens: dict[str, int] = {}
    """Ids of tokens that are missing from the model; their embeddings are trained."""
    tensorboard_folder: Path | None = None

    def rows_per_process(self, n_processes: int) -> int:
        """Return how many rows of an optimizer step each of ``n_processes`` computes.

        Raises:
            ParameterError: The number does not divide the effective batch.
        """
        batch_rows = self.values.effective_batch_rows
        if batch_rows % n_processes:
            raise ParameterError(
                f"{n_processes} processes do not divide the effective batch of {batch_rows} rows. "
                "Choose a number that does (qlora_train.n_processes, --processes)."
            )
        return batch_rows // n_processes

    def data_hashes(self) -> dict[str, str]:
        """Return a hash of the rows of each table.

        It covers the content of the table's files, not their names: the same rows written again
        have the same hash.
        """
        return {
            name: _content_hash(ParquetTable(folder))
            for name, folder in (
                ("train", self.train_folder),
                ("validation", self.validation_folder),
            )
        }

    def decisive_settings(self) -> dict[str, Any]:
        """Return the settings that determine the result, and the hashes of the data, as JSON."""
        return {
            **self.model_dump(mode="json", exclude=_FIELDS_NOT_IN_FINGERPRINT),
            "data": self.data_hashes(),
        }

    def fingerprint(self) -> str:
        """Return a hash of :meth:`decisive_settings`, by which a finished run is found again."""
        text = json.dumps(self.decisive_settings(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_training_job(
    profile: ModelProfile,
    params: QloraTrainParams,
    train_folder: Path,
    validation_folder: Path,
    git_commit: str | None,
    row_facts: Mapping[str, Any],
) -> TrainingJob:
    """Combine parameters, profile and rows into a job.

    Args:
        profile: The model profile.
        params: Overrides of its training values.
        train_folder: Table of training rows.
        validation_folder: Table of validation rows.
        git_commit: Commit that the rows were built from.
        row_facts: Content of the dataset ``row_facts``.

    Raises:
        ParameterError: The overrides contradict the profile.
        StaleDataError: Another version of the project wrote ``row_facts``.
    """
    with stored_data("The dataset row_facts", "Run `kedro run --pipeline=sequence_build` again."):
        facts = RowFacts.model_validate(row_facts)
    work_folder = Path(params.work_folder)
    tensorboard_folder = work_folder / profile.name / "tensorboard"
    return TrainingJob(
        profile=profile,
        values=params.apply_to(profile.training),
        force_epochs=params.force_epochs,
        max_steps=params.max_steps,
        train_folder=train_folder,
        validation_folder=validation_folder,
        work_folder=work_folder,
        git_commit=git_commit,
        early_stopping_patience=params.early_stopping_patience,
        restart_training=params.restart_training,
        limits=MemoryLimits(
            engine=params.engine,
            layers=params.layers,
            device_gib=params.memory_cap_gib,
            host_gib=params.host_memory_gib,
            micro_batch_rows=params.micro_batch_rows,
        ),
        n_processes=params.n_processes,
        probe_questions=params.probe_questions,
        probe_new_tokens=params.probe_new_tokens,
        added_tokens=facts.added_tokens,
        stage_epochs={stage.stage: stage.epochs for stage in facts.curriculum},
        tensorboard_folder=tensorboard_folder if params.tensorboard else None,
    )


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe the changes between two :meth:`TrainingJob.decisive_settings`, for messages.

    >>> describe_differences({"values": {"seed": 1}}, {"values": {"seed": 2}})
    ['values.seed 1 → 2']
    """
    old, new = dict(flatten(before)), dict(flatten(now))
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return [
        f"the {name.removeprefix('data.')} rows"
        if name.startswith("data.")
        else f"{name} {old.get(name)} → {new.get(name)}"
        for name in changed
    ]


def _content_hash(table: ParquetTable) -> str:
    digest = hashlib.sha256()
    for part in table.parts:
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
