"""Small training jobs on the tiny Llama."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from peft import PeftModel
from tests.builders.tiny_llama import tiny_profile

from the_block_llm import schemas
from the_block_llm.datasets.parquet_table import save_table
from the_block_llm.models.adapter.adapters import load_model_with_adapter
from the_block_llm.models.base.quantized_loading import disable_inference_repacking
from the_block_llm.models.collate import collate_rows
from the_block_llm.models.plain.chunked_loss import enable_chunked_loss
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop.train_run import TrainingOutcome, train

ADDED_TOKENS = {"<|code_start|>": 260, "<|analysis|>": 261, "<|question|>": 262}
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
    save_table(folder, schemas.ROWS, [pa.Table.from_pylist(rows, schemas.ROWS)])
    return folder


def make_job(base: Path, folder: Path, **changes: Any) -> TrainingJob:
    """16 steps: four epochs of sixteen rows, four rows per step, dropout as in real profiles."""
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
    return replace_fields(job, **changes)


def replace_fields(job: TrainingJob, dropout: float | None = None, **changes: Any) -> TrainingJob:
    """Return the job with other values of its fields, or of those of ``job.values``."""
    values = {n: changes.pop(n) for n in list(changes) if n in type(job.values).model_fields}
    changes["values"] = job.values.model_copy(update=values)
    if dropout is not None:
        lora = job.profile.lora.model_copy(update={"dropout": dropout})
        changes["profile"] = job.profile.model_copy(update={"lora": lora})
    return job.model_copy(update=changes)


def added_token_row(number: int) -> dict[str, Any]:
    result = row("a question of some length, and its answer. " * 2 + "." * (3 * number))
    for position, id_ in ((0, 262), (20, 261), (40 + number, 260)):
        result["input_ids"][position] = id_
    return result


def added_token_job(base: Path, folder: Path, **changes: Any) -> TrainingJob:
    return make_job(
        base,
        folder,
        train_folder=save_rows(folder / "added-tokens", [added_token_row(i) for i in range(8)]),
        validation_folder=save_rows(folder / "added-tokens-validation", [added_token_row(3)]),
        added_tokens=ADDED_TOKENS,
        force_epochs=2,
        **changes,
    )


def train_for_metrics(job: TrainingJob) -> dict[str, Any]:
    """Train, delete the adapter folder (the catalog would move it), and return the metrics."""
    outcome = train(job)
    shutil.rmtree(outcome.adapter_folder)
    return outcome.metrics


def step_trace(metrics: dict[str, Any]) -> list[tuple[int, float, float]]:
    return [(e["step"], e["loss"], e["learning_rate"]) for e in metrics["train_history"]]


def losses(metrics: dict[str, Any]) -> list[float]:
    return [entry["loss"] for entry in metrics["train_history"]]


def load_and_measure_loss(
    outcome: TrainingOutcome, job: TrainingJob, row_: dict[str, Any]
) -> tuple[PeftModel, float]:
    """Load the base model with the run's adapter, and return it with its loss on one row."""
    model = load_model_with_adapter(job.profile, outcome.adapter_folder, torch.device("cpu"))
    disable_inference_repacking(model)
    enable_chunked_loss(model.get_base_model())
    with torch.no_grad():
        return model, float(model(**collate_rows([row_], 3)).loss)
