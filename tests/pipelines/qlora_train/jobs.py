"""Small training jobs on the tiny Llama."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests.builders.tiny_llama import tiny_profile

from the_block_llm import schemas
from the_block_llm.datasets.parts import save_parts
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.training import train

TEXT = "the state manager applies the block after consensus has finalised it; "


def row(text: str, n_masked: int = 1, stage: int = 0) -> dict[str, Any]:
    # The byte tokenizer's ids are 4 + the position in the sorted byte alphabet; any ids do here.
    ids = [4 + byte % 200 for byte in text.encode()]
    return {
        "input_ids": ids,
        "labels_mask": [i >= n_masked for i in range(len(ids))],
        "segment_lengths": [len(ids)],
        "document_ids": ["d"],
        "n_tokens": len(ids),
        "stage": stage,
    }


def save_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    save_parts(folder, schemas.ROWS, [pa.Table.from_pylist(rows, schemas.ROWS)])
    return folder


def make_job(base: Path, folder: Path, **changes: Any) -> TrainingJob:
    """16 steps: four epochs of sixteen rows, four rows a step, dropout as in real profiles."""
    profile = tiny_profile(base)
    lora = profile.lora.model_copy(update={"dropout": 0.05})
    job = TrainingJob(
        profile=profile.model_copy(update={"lora": lora}),
        values=profile.training,
        force_epochs=4,
        max_steps=None,
        train_folder=save_rows(folder / "train", [row(TEXT[i:]) for i in range(16)]),
        validation_folder=save_rows(folder / "validation", [row(TEXT[3:])]),
        work_folder=folder / "models",
        git_commit="0" * 40,
    )
    return change(job, **changes)


def change(job: TrainingJob, dropout: float | None = None, **changes: Any) -> TrainingJob:
    """The job with other fields; those of its training values are found by name."""
    values = {n: changes.pop(n) for n in list(changes) if n in type(job.values).model_fields}
    changes["values"] = job.values.model_copy(update=values)
    if dropout is not None:
        lora = job.profile.lora.model_copy(update={"dropout": dropout})
        changes["profile"] = job.profile.model_copy(update={"lora": lora})
    return job.model_copy(update=changes)


def trained(job: TrainingJob) -> dict[str, Any]:
    """Train and take the adapter away, as the catalog does; gives the figures of the run."""
    outcome = train(job)
    shutil.rmtree(outcome.adapter_folder)
    return outcome.metrics


def trace(metrics: dict[str, Any]) -> list[tuple[int, float, float]]:
    return [(e["step"], e["loss"], e["learning_rate"]) for e in metrics["train_history"]]


def losses(metrics: dict[str, Any]) -> list[float]:
    return [entry["loss"] for entry in metrics["train_history"]]
