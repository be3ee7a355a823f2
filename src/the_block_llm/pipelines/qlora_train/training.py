"""One training run, from packed rows to a finished adapter folder. No Kedro here."""

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.errors import TooLittleDataError
from the_block_llm.models.adapters import attach_adapter
from the_block_llm.models.base_models import load_tokenizer
from the_block_llm.models.loading import load_base_model, pick_device
from the_block_llm.models.loss import compute_loss_in_chunks
from the_block_llm.models.segments import collate_rows
from the_block_llm.pipelines.qlora_train.epochs import EpochPlan, plan_epochs
from the_block_llm.pipelines.qlora_train.finished_adapter import save_adapter
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.row_table import RowTable
from the_block_llm.pipelines.qlora_train.run_metrics import run_metrics
from the_block_llm.pipelines.qlora_train.watching import RunWatcher
from the_block_llm.progress import progress_bar

_log = logging.getLogger(__name__)


class TrainingOutcome(BaseModel, frozen=True):
    """Where the adapter is, and every figure of the run."""

    adapter_folder: Path
    metrics: dict[str, Any]


def train(job: TrainingJob) -> TrainingOutcome:
    """Train an adapter, resuming where an equal run was cut off.

    Returns:
        A complete adapter folder under ``job.work_folder``, to be moved to its place.

    Raises:
        TooLittleDataError: There is no row with a target.
        TrainingError: The loss is not a number any more.
        AdapterTargetError: A LoRA target matches no layer.
        ModelUnavailableError: The base weights cannot be had.
    """
    values = job.values
    train_rows = RowTable(ParquetParts(job.train_folder), values.max_rows)
    validation_rows = RowTable(ParquetParts(job.validation_folder), values.max_validation_rows)
    _check_rows(train_rows, validation_rows)
    plan = plan_epochs(
        rows=len(train_rows),
        trained_tokens_per_epoch=train_rows.trained_tokens,
        target_tokens=values.target_tokens,
        min_epochs=values.min_epochs,
        max_epochs=values.max_epochs,
        effective_batch_rows=values.effective_batch_rows,
        force_epochs=job.force_epochs,
        max_steps=job.max_steps,
    )
    _log_plan(plan)

    device = pick_device()
    tokenizer = load_tokenizer(job.profile)
    base = load_base_model(job.profile, device)
    compute_loss_in_chunks(base)
    model = attach_adapter(base, job.profile, values.seed)
    run_folder = job.work_folder / job.profile.name / f".training-{job.fingerprint()}"
    run_folder.mkdir(parents=True, exist_ok=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    started = time.monotonic()
    with progress_bar("training", total=plan.steps) as bar:
        watcher = RunWatcher(bar)
        trainer = Trainer(
            model=model,
            args=_arguments(job, plan, run_folder, device),
            train_dataset=train_rows,
            eval_dataset=validation_rows,
            data_collator=lambda rows: collate_rows(rows, tokenizer.pad_token_id),
            callbacks=[watcher],
        )
        # Its own console output would fall through our progress bar.
        trainer.remove_callback(PrinterCallback)
        resumed_from = get_last_checkpoint(str(run_folder))
        if resumed_from is not None:
            _log.info("Resuming the run that was cut off, from %s", Path(resumed_from).name)
        trainer.train(resume_from_checkpoint=resumed_from)
        if trainer.state.log_history and not _ends_with_validation(trainer.state.log_history):
            trainer.evaluate()
    seconds = time.monotonic() - started

    metrics = run_metrics(job, plan, train_rows, trainer, seconds, device, resumed_from)
    adapter_folder = save_adapter(job, model, tokenizer, metrics, device)
    shutil.rmtree(run_folder)
    return TrainingOutcome(adapter_folder=adapter_folder, metrics=metrics)


def _check_rows(train_rows: RowTable, validation_rows: RowTable) -> None:
    for name, rows in (("training", train_rows), ("validation", validation_rows)):
        if len(rows) == 0:
            raise TooLittleDataError(
                f"There is no {name} row with anything to learn in it. The repository is too "
                "small for its cut-off: choose another with sequence_build.cutoff, or a "
                "repository with more history."
            )


def _log_plan(plan: EpochPlan) -> None:
    wanted = "none" if plan.epochs_wanted is None else f"{plan.epochs_wanted:.2f}"
    _log.info(
        "%s rows, %s trained tokens an epoch; %s epochs wanted, %d chosen (%s): %d steps",
        f"{plan.rows:,}", f"{plan.trained_tokens_per_epoch:,}", wanted, plan.epochs, plan.reason,
        plan.steps,
    )  # fmt: skip


def _arguments(
    job: TrainingJob, plan: EpochPlan, run_folder: Path, device: torch.device
) -> TrainingArguments:
    values = job.values
    on_gpu = device.type == "cuda"
    # Without a whole evaluation interval in it, a short run still needs one validation.
    eval_steps = min(values.eval_steps, plan.steps)
    save_steps = max(eval_steps, min(values.save_steps, plan.steps) // eval_steps * eval_steps)
    return TrainingArguments(
        output_dir=str(run_folder),
        per_device_train_batch_size=values.micro_batch_rows,
        per_device_eval_batch_size=values.micro_batch_rows,
        gradient_accumulation_steps=values.effective_batch_rows // values.micro_batch_rows,
        num_train_epochs=plan.epochs,
        max_steps=plan.steps,
        learning_rate=values.learning_rate,
        warmup_steps=values.warmup_ratio,
        weight_decay=values.weight_decay,
        max_grad_norm=values.max_grad_norm,
        optim="paged_adamw_8bit" if on_gpu else "adamw_torch",
        bf16=on_gpu,
        use_cpu=not on_gpu,
        activation_checkpointing=on_gpu,
        activation_checkpointing_kwargs={"use_reentrant": False} if on_gpu else None,
        logging_steps=min(values.logging_steps, plan.steps),
        # A loss that is not a number must be seen, not smoothed away.
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=eval_steps,
        eval_on_start=True,
        # Keeping the logits of the validation rows is how evaluation runs out of memory.
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=save_steps,
        save_total_limit=values.checkpoints_kept,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=values.seed,
        data_seed=values.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=on_gpu,
        disable_tqdm=True,
        report_to="none",
    )


def _ends_with_validation(history: Sequence[dict[str, Any]]) -> bool:
    last_step = max(entry["step"] for entry in history)
    return any("eval_loss" in entry and entry["step"] == last_step for entry in history)
