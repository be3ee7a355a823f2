"""The figures of a run."""

import math
import platform
import resource
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from the_block_llm.pipelines.qlora_train.epochs import EpochPlan
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.row_table import RowTable


def run_metrics(
    job: TrainingJob,
    plan: EpochPlan,
    train_rows: RowTable,
    trainer: Trainer,
    seconds: float,
    device: torch.device,
    resumed_from: str | None,
) -> dict[str, Any]:
    """Every figure of a finished run, as in ``training_metrics.json``."""
    history = trainer.state.log_history
    steps = [
        {"step": e["step"], "loss": e["loss"], "learning_rate": e["learning_rate"]}
        for e in history
        if "loss" in e
    ]
    validations = [{"step": e["step"], "loss": e["eval_loss"]} for e in history if "eval_loss" in e]
    best = min((v["loss"] for v in validations), default=math.nan)
    rows_seen = min(
        trainer.state.global_step * job.values.effective_batch_rows, plan.rows * plan.epochs
    )
    return {
        "profile": job.profile.name,
        "device": device_name(device),
        "epoch_plan": asdict(plan),
        "rows_without_target": train_rows.rows_without_target,
        "longest_row_tokens": train_rows.longest_row_tokens,
        "steps_done": trainer.state.global_step,
        "resumed_from": None if resumed_from is None else Path(resumed_from).name,
        "seconds": round(seconds, 1),
        "trained_tokens_per_second": round(
            rows_seen * train_rows.trained_tokens / max(1, len(train_rows)) / seconds, 1
        ),
        "peak_memory_gib": round(peak_memory_gib(device), 3),
        "train_loss_first": steps[0]["loss"] if steps else None,
        "train_loss_last": steps[-1]["loss"] if steps else None,
        "validation_loss_before": validations[0]["loss"] if validations else None,
        "validation_loss_after": None if math.isnan(best) else best,
        "train_history": steps,
        "validation_history": validations,
    }


def peak_memory_gib(device: torch.device) -> float:
    """Most memory this process has held: allocated by torch on a GPU, resident on the CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def device_name(device: torch.device) -> str:
    """The device as a reader of a report knows it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {torch.get_num_threads()} threads"
