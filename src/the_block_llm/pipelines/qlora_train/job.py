"""What a training run computes and where it works, as one value that can be written down."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import ParameterError
from the_block_llm.models.profiles import ModelProfile, TrainingValues
from the_block_llm.models.resource_limits import MemoryLimits
from the_block_llm.pipelines.qlora_train.flatten import dotted
from the_block_llm.pipelines.qlora_train.params import QloraTrainParams

JOB_FILE: Final = "job.json"
"""Of a job that other processes read, in a folder that they all see."""
# Where it works, how it is watched and how rows are split over memory and processes: a run
# that is cut off may go on with others.
_NOT_DECISIVE: Final[Any] = {
    "work_folder": True, "train_folder": True, "validation_folder": True, "git_commit": True,
    "restart_training": True, "n_processes": True, "limits": True, "probe_questions": True,
    "probe_new_tokens": True,
    "tensorboard_folder": True,
    "values": {"micro_batch_rows", "logging_steps", "save_steps", "checkpoints_kept"},
    "profile": {"training", "cache_folder"},
}  # fmt: skip


class _Stage(BaseModel, frozen=True):
    stage: int
    epochs: int


class RowFacts(BaseModel, frozen=True):
    """What is read of ``row_facts``, which stands beside the rows."""

    added_tokens: dict[str, int] = {}
    """Ids of tokens that the model's own tokenizer does not have."""
    curriculum: tuple[_Stage, ...] = ()


class TrainingJob(BaseModel, frozen=True, extra="forbid"):
    """Everything that decides what a run computes, and where it works."""

    profile: ModelProfile
    values: TrainingValues
    force_epochs: int | None
    max_steps: int | None
    train_folder: Path
    validation_folder: Path
    work_folder: Path
    git_commit: str | None
    early_stopping_patience: int | None = None
    """Validations without a better loss after which a run ends; none: it runs to its end."""
    restart_training: bool = False
    """Discard the unfinished run of the profile, if there is one."""
    limits: MemoryLimits = MemoryLimits()
    """What the run may use of the machine."""
    n_processes: int = 1
    probe_questions: tuple[str, ...] = ()
    """Asked before training and after every epoch."""
    probe_new_tokens: int = 48
    stage_epochs: dict[int, int] = {}
    """Epochs of each curriculum stage; empty where the token budget decides."""
    added_tokens: dict[str, int] = {}
    """Ids of tokens in the rows that the model does not have; it learns vectors for them."""
    tensorboard_folder: Path | None = None

    def rows_of_each(self, n_processes: int) -> int:
        """Rows of an optimizer step that each of so many processes computes.

        Raises:
            ParameterError: They cannot share the effective batch.
        """
        batch = self.values.effective_batch_rows
        if batch % n_processes:
            raise ParameterError(
                f"{n_processes} processes do not divide the effective batch of {batch} rows. "
                "Choose a number that does (qlora_train.n_processes, --processes)."
            )
        return batch // n_processes

    def data_hashes(self) -> dict[str, str]:
        """By table, a hash of its rows.

        Of the parts' content, not their names: the same rows written again are the same data.
        """
        return {
            name: _content_hash(ParquetTable(folder))
            for name, folder in (
                ("train", self.train_folder),
                ("validation", self.validation_folder),
            )
        }

    def decisive(self) -> dict[str, Any]:
        """The choices that decide what is computed, and the hashes of the data, as plain values."""
        return {
            **self.model_dump(mode="json", exclude=_NOT_DECISIVE),
            "data": self.data_hashes(),
        }

    def fingerprint(self) -> str:
        """Equal for two jobs that compute the same; a killed run is found again by it."""
        text = json.dumps(self.decisive(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def training_job(
    profile: ModelProfile,
    params: QloraTrainParams,
    train_folder: Path,
    validation_folder: Path,
    git_commit: str | None,
    row_facts: Mapping[str, Any],
) -> TrainingJob:
    """Put a run's parameters, its profile and its rows together.

    Raises:
        ParameterError: They contradict each other.
    """
    facts = RowFacts.model_validate(row_facts)
    work_folder = Path(params.work_folder)
    curves = work_folder / profile.name / "tensorboard"
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
        tensorboard_folder=curves if params.tensorboard else None,
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two :meth:`TrainingJob.decisive`, in words.

    >>> differences({"values": {"seed": 1}}, {"values": {"seed": 2}})
    ['values.seed 1 → 2']
    """
    old, new = dict(dotted(before)), dict(dotted(now))
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
