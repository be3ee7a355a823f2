"""The metrics of a finished run."""

from dataclasses import asdict
from typing import Any, Final

import torch

from the_block_llm.models.layerwise.planner.plan_search import MemoryPlan
from the_block_llm.models.plain.memory_plan import PlainMemoryPlan
from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import RunState
from the_block_llm.pipelines.qlora_train.checkpoint.log_history import (
    LogHistory,
    best_validation,
    training_steps,
    validations,
)
from the_block_llm.pipelines.qlora_train.data.dataset import RowDataset
from the_block_llm.pipelines.qlora_train.data.epoch_plan import EpochPlan
from the_block_llm.pipelines.qlora_train.data.sample_order import SampleOrder
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.runtime.memory_stats import device_name, peak_memory_gib

_STEP_KEYS: Final = ("step", "loss", "learning_rate", "tokens", "step_seconds", "memory_gib")


def run_metrics(
    job: TrainingJob,
    plan: EpochPlan,
    rows: RowDataset,
    order: SampleOrder,
    state: RunState,
    log: LogHistory,
    seconds: float,
    device: torch.device,
    resumed_from: str | None,
    stopped_early: bool,
    memory: MemoryPlan | PlainMemoryPlan | None,
) -> dict[str, Any]:
    """Return the metrics of a finished run, as in ``training_metrics.json``.

    Args:
        job: The run.
        plan: Its epochs and steps.
        rows: The training rows.
        order: Their order.
        state: State of the run folder.
        log: Log history of the complete run, earlier processes included.
        seconds: Duration of the complete run, validation and samples included.
        device: The device that was trained on.
        resumed_from: Name of the checkpoint that this process resumed from.
        stopped_early: Whether early stopping ended the run.
        memory: The memory plan.
    """
    steps = [{name: entry[name] for name in _STEP_KEYS} for entry in training_steps(log)]
    validation_history = validations(log)
    best = best_validation(log)
    loss_before = next((v.loss for v in validation_history if v.step == 0), None)
    step_seconds = max(1e-9, sum(entry["step_seconds"] for entry in steps))
    tokens = sum(entry["tokens"] for entry in steps)
    trained_fraction = rows.trained_tokens / max(1, int(rows.tokens.sum()))
    return {
        "profile": job.profile.name,
        "device": device_name(device),
        "n_processes": job.n_processes,
        "epoch_plan": asdict(plan),
        "epoch_ends": [end for end in order.epoch_end_steps if end <= plan.steps],
        "curriculum_stage_ends": {str(k): v for k, v in order.stage_end_steps.items() if k},
        "rows_without_target": rows.rows_without_target,
        "longest_row_tokens": rows.longest_row_tokens,
        "effective_batch_rows": job.values.effective_batch_rows,
        "micro_batch_rows": state.micro_batch_rows,
        "out_of_memory": state.out_of_memory,
        "steps_done": len(steps),
        "stopped_early": stopped_early,
        "best_step": best.step if best else None,
        "resumed_from": resumed_from,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / step_seconds, 1),
        "trained_tokens_per_second": round(tokens * trained_fraction / step_seconds, 1),
        "memory_plan": None if memory is None else memory.describe(),
        # On a CPU the measured peak is the process's, which a layerwise plan does not cover.
        "predicted_peak_gib": (
            None
            if memory is None or (device.type == "cpu" and isinstance(memory, MemoryPlan))
            else round(memory.device_bytes / 2**30, 3)
        ),
        "memory_cap_gib": job.limits.device_gib if device.type == "cuda" else None,
        "peak_memory_gib": round(
            max([peak_memory_gib(device), *(entry["memory_gib"] for entry in steps)]), 3
        ),
        "train_loss_first": steps[0]["loss"] if steps else None,
        "train_loss_last": steps[-1]["loss"] if steps else None,
        "validation_loss_before": loss_before,
        "validation_loss_after": best.loss if best else None,
        "train_history": steps,
        "validation_history": [{"step": v.step, "loss": v.loss} for v in validation_history],
    }
