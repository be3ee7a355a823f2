"""One training run, from packed rows to a finished adapter folder. No Kedro here."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from pydantic import BaseModel
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainingArguments

from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.errors import ParameterError, TooLittleDataError, TrainingError
from the_block_llm.models.adapters import attach_adapter
from the_block_llm.models.base_models import load_tokenizer
from the_block_llm.models.loading import load_base_model
from the_block_llm.models.loss import compute_loss_in_chunks
from the_block_llm.models.segments import collate_rows
from the_block_llm.pipelines.qlora_train import ranks
from the_block_llm.pipelines.qlora_train.epochs import EpochPlan, plan_epochs
from the_block_llm.pipelines.qlora_train.exact_base import keep_differentiable
from the_block_llm.pipelines.qlora_train.finished_adapter import (
    finished_folder,
    finished_reports,
    save_adapter,
)
from the_block_llm.pipelines.qlora_train.history import best_validation
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.out_of_memory import (
    free_memory,
    is_out_of_memory,
    put_back,
    trainable_tensors,
)
from the_block_llm.pipelines.qlora_train.probing import EpochProbe
from the_block_llm.pipelines.qlora_train.row_order import RowOrder, order_rows
from the_block_llm.pipelines.qlora_train.row_table import RowTable
from the_block_llm.pipelines.qlora_train.run_folder import RunFolder, open_run, run_path
from the_block_llm.pipelines.qlora_train.run_metrics import run_metrics
from the_block_llm.pipelines.qlora_train.speed_probe import Speed, measure_speed
from the_block_llm.pipelines.qlora_train.stopping import StoppedOnRequest, stop_on_signals
from the_block_llm.pipelines.qlora_train.tensorboard import tensorboard_callback
from the_block_llm.pipelines.qlora_train.trainer import RunTrainer, checkpoint_weights
from the_block_llm.pipelines.qlora_train.watching import Bar, RunWatcher
from the_block_llm.progress import progress_bar

_log = logging.getLogger(__name__)
ShowProgress = Callable[[str, float | None], AbstractContextManager[Bar]]


class TrainingOutcome(BaseModel, frozen=True):
    """Where the adapter is, and every figure of the run."""

    adapter_folder: Path
    metrics: dict[str, Any]
    answers: dict[str, Any]
    """What the model said to the probe questions, epoch by epoch."""


@dataclass(frozen=True)
class RunData:
    """The rows of a run and the way through them."""

    train: RowTable
    validation: RowTable
    plan: EpochPlan
    order: RowOrder


def train(job: TrainingJob, show_progress: ShowProgress = progress_bar) -> TrainingOutcome:
    """Train an adapter in this process, resuming where an equal run was cut off.

    Returns:
        A complete adapter folder under ``job.work_folder``, to be moved to its place.

    Raises:
        TooLittleDataError: There is no row with a target.
        TrainingError: The loss is not a number any more, memory runs out with a single row, or
            an unfinished run of other choices is in the way.
        StorageError: A checkpoint or the adapter cannot be written.
        StoppedOnRequest: A signal asked the run to stop; it goes on next time.
        AdapterTargetError: A LoRA target matches no layer.
        ModelUnavailableError: The base weights cannot be had.
    """
    ranks.join_processes()
    data = read_rows(job)
    reports = ranks.from_first(None if job.start_anew else finished_reports(job))
    if reports is not None:
        _log.info("An equal run had finished already; its adapter is put in place")
        return TrainingOutcome(adapter_folder=finished_folder(job), **reports)
    _log_plan(data.plan)
    run = open_for_all(job)
    try:
        outcome = _Run(job, data, run, show_progress).complete()
    except BaseException:
        run.close()
        raise
    # The others read the best checkpoint as well.
    ranks.wait_for_all()
    if ranks.is_first():
        run.discard()
    return outcome


def open_for_all(job: TrainingJob) -> RunFolder:
    """Open the job's run folder; the first process writes there, the others read.

    Raises:
        TrainingError: As :func:`~the_block_llm.pipelines.qlora_train.run_folder.open_run`.
    """
    run = open_run(job) if ranks.is_first() else None
    state = ranks.from_first(run.state if run else None)
    if run is not None:
        return run
    assert state is not None  # noqa: S101  # sent by the first
    return RunFolder(run_path(job), state, lock=None)


def read_rows(job: TrainingJob) -> RunData:
    """Open the job's rows and settle epochs, steps and order.

    Raises:
        TooLittleDataError: There is no row with a target.
        ParameterError: The effective batch cannot be shared out.
    """
    values = job.values
    train_rows = RowTable(ParquetParts(job.train_folder), values.max_rows)
    validation_rows = RowTable(ParquetParts(job.validation_folder), values.max_validation_rows)
    for name, rows in (("training", train_rows), ("validation", validation_rows)):
        if len(rows) == 0:
            raise TooLittleDataError(
                f"There is no {name} row with anything to learn in it. The repository is too "
                "small for its cut-off: choose another with sequence_build.cutoff, or a "
                "repository with more history."
            )
    batch = values.effective_batch_rows
    one_epoch = order_rows(train_rows.stages, 1, batch, values.seed)
    plan = plan_epochs(
        rows=len(train_rows),
        trained_tokens_per_epoch=train_rows.trained_tokens,
        target_tokens=values.target_tokens,
        min_epochs=values.min_epochs,
        max_epochs=values.max_epochs,
        effective_batch_rows=batch,
        force_epochs=job.force_epochs,
        max_steps=job.max_steps,
        steps_per_epoch=one_epoch.steps,
    )
    order = order_rows(train_rows.stages, plan.epochs, batch, values.seed)
    return RunData(train=train_rows, validation=validation_rows, plan=plan, order=order)


def load_trainable(job: TrainingJob, device: torch.device) -> PeftModel:
    """The job's base in 4 bits, with a fresh adapter.

    Raises:
        AdapterTargetError: A LoRA target matches no layer.
        ModelUnavailableError: The base weights cannot be had.
    """
    base = load_base_model(job.profile, device)
    keep_differentiable(base)
    compute_loss_in_chunks(base)
    return attach_adapter(base, job.profile, job.values.seed)


def measure(job: TrainingJob, data: RunData) -> Speed:
    """Load the model, time real passes over the longest rows, and let go of it."""
    device = ranks.local_device()
    model = load_trainable(job, device)
    pad = int(load_tokenizer(job.profile).pad_token_id)
    return measure_speed(model, data.train, job.values.micro_batch_rows, pad, device)


class _Run:
    """Model, rows and folder of a run, through as many attempts as memory needs."""

    def __init__(
        self, job: TrainingJob, data: RunData, run: RunFolder, show_progress: ShowProgress
    ) -> None:
        self._job = job
        self._data = data
        self._run = run
        self._show_progress = show_progress
        self._device = ranks.local_device()
        self._tokenizer: PreTrainedTokenizerFast = load_tokenizer(job.profile)
        self._model = load_trainable(job, self._device)
        self._untrained = trainable_tensors(self._model)

    def complete(self) -> TrainingOutcome:
        """Train to the end and write the adapter."""
        latest = self._run.latest()
        began_from = None if latest is None else latest.name
        if began_from is not None:
            _log.info("Resuming the run that was cut off, from %s", began_from)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        with self._show_progress("training", self._data.plan.steps) as bar:
            while True:
                trainer, watcher = self._attempt(bar)
                if trainer is not None:
                    break
        log = trainer.state.log_history
        best = best_validation(log)
        if best is not None and best.step != trainer.state.global_step:
            weights = checkpoint_weights(self._run.checkpoint(best.step))
            set_peft_model_state_dict(self._model, load_file(weights))
        metrics = run_metrics(
            self._job, self._data.plan, self._data.train, self._data.order, self._run.state, log,
            watcher.run_seconds, self._device, began_from, watcher.stopped_early,
        )  # fmt: skip
        reports = {
            "metrics": metrics,
            "answers": {
                "profile": self._job.profile.name,
                "questions": list(self._job.probe_questions),
                "answers": self._run.state.probe_answers,
            },
        }
        folder = finished_folder(self._job)
        if ranks.is_first():
            save_adapter(self._job, self._model, self._tokenizer, reports, self._device)
        return TrainingOutcome(adapter_folder=folder, **reports)

    def _attempt(self, bar: Bar) -> tuple[RunTrainer | None, RunWatcher]:
        """Train from the newest checkpoint; gives no Trainer where memory ran out."""
        with stop_on_signals() as request:
            values = self._job.values
            watcher = RunWatcher(
                bar, request, values.logging_steps, self._job.early_stopping_patience
            )
            latest = self._run.latest()
            trainer = self._trainer(watcher, resumed=latest is not None)
            try:
                trainer.train(resume_from_checkpoint=None if latest is None else str(latest))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                memory_error = str(error).splitlines()[0]
            else:
                step = trainer.state.global_step
                if request.signal is not None and step < self._data.plan.steps:
                    raise StoppedOnRequest(
                        f"Stopped by {request.signal.name} after step {step} of "
                        f"{self._data.plan.steps}. Everything up to there is kept; the same "
                        "command goes on from it.",
                        exit_code=128 + request.signal,
                    )
                return trainer, watcher
        # Outside the handler: its traceback held what filled the memory.
        self._make_room(trainer, watcher, memory_error)
        return None, watcher

    def _make_room(self, trainer: RunTrainer, watcher: RunWatcher, memory_error: str) -> None:
        step = trainer.state.global_step
        rows = self._run.state.micro_batch_rows
        if ranks.n_processes() > 1:
            raise OutOfMemoryInProcessError(memory_error)
        if rows == 1:
            raise TrainingError(_nothing_left_to_halve(self._data, step, memory_error))
        free_memory(self._model)
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        if step == 0:
            put_back(self._model, self._untrained)
        elif self._run.latest() != self._run.checkpoint(step):
            assert watcher.random_states is not None  # noqa: S101  # a step has begun
            watcher.random_states.restore()
            trainer.save_now()
        self._run.state.micro_batch_rows = rows // 2
        self._run.state.out_of_memory.append({"step": step, "went_on_with_rows": rows // 2})
        self._run.save_state()
        _log.warning(
            "Out of memory after step %d with %d rows at a time (%s). Going on with %d, and twice "
            "as many micro-batches a step; what is learned stays the same.",
            step, rows, memory_error, rows // 2, extra={"markup": False},
        )  # fmt: skip

    def _trainer(self, watcher: RunWatcher, resumed: bool) -> RunTrainer:
        job, data = self._job, self._data
        trainer = RunTrainer(
            rows=data.train,
            order=data.order,
            run=self._run,
            watcher=watcher,
            checkpoints_kept=job.values.checkpoints_kept,
            model=self._model,
            args=_arguments(job, data.plan, self._run, self._device, resumed),
            eval_dataset=data.validation,
            data_collator=lambda rows: collate_rows(rows, self._tokenizer.pad_token_id),
            callbacks=[
                EpochProbe(
                    job.probe_questions,
                    self._tokenizer,
                    self._run,
                    data.order.epoch_ends,
                    job.probe_new_tokens,
                ),
                *tensorboard_callback(job.tensorboard_folder),
            ],
        )
        # Its own console output would fall through our progress bar.
        trainer.remove_callback(PrinterCallback)
        return trainer


class OutOfMemoryInProcessError(TrainingError):
    """One of several processes ran out of memory; all of them begin again with fewer rows."""


def _nothing_left_to_halve(data: RunData, step: int, memory_error: str) -> str:
    return (
        f"Out of memory after step {step} with a single row of up to "
        f"{data.train.longest_row_tokens:,} tokens ({memory_error}). What was learned is kept. "
        "Use shorter rows (sequence_build.context_tokens), a smaller adapter (lora.r of the "
        "profile), or free memory that other programs hold."
    )


def micro_batch_rows(job: TrainingJob, run: RunFolder) -> int:
    """Rows that go through the model together in each process.

    Raises:
        ParameterError: The effective batch cannot be shared out over the processes.
    """
    batch, processes = job.values.effective_batch_rows, ranks.n_processes()
    if batch % processes:
        raise ParameterError(
            f"qlora_train.n_processes {processes} does not divide the effective batch of {batch} "
            "rows. Choose a number that does."
        )
    share = batch // processes
    return max(n for n in range(1, run.state.micro_batch_rows + 1) if share % n == 0)


def _log_plan(plan: EpochPlan) -> None:
    wanted = "none" if plan.epochs_wanted is None else f"{plan.epochs_wanted:.2f}"
    _log.info(
        "%s rows, %s trained tokens an epoch; %s epochs wanted, %d chosen (%s): %d steps",
        f"{plan.rows:,}", f"{plan.trained_tokens_per_epoch:,}", wanted, plan.epochs, plan.reason,
        plan.steps,
    )  # fmt: skip


def _arguments(
    job: TrainingJob, plan: EpochPlan, run: RunFolder, device: torch.device, resumed: bool
) -> TrainingArguments:
    values = job.values
    on_gpu = device.type == "cuda"
    rows = micro_batch_rows(job, run)
    return TrainingArguments(
        output_dir=str(run.path),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=values.effective_batch_rows // rows // ranks.n_processes(),
        max_steps=plan.steps,
        learning_rate=values.learning_rate,
        warmup_steps=values.warmup_ratio,
        weight_decay=values.weight_decay,
        max_grad_norm=values.max_grad_norm,
        optim="paged_adamw_8bit" if on_gpu else "adamw_torch",
        bf16=on_gpu,
        use_cpu=not on_gpu,
        ddp_backend=ranks.backend(),
        ddp_find_unused_parameters=False,
        activation_checkpointing=on_gpu,
        activation_checkpointing_kwargs={"use_reentrant": False} if on_gpu else None,
        # Every step: what a resumed run logs must not depend on where it was cut off.
        logging_steps=1,
        # A loss that is not a number must be seen, not smoothed away.
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=values.eval_steps,
        eval_on_start=not resumed,
        save_strategy="steps",
        save_steps=values.save_steps,
        seed=values.seed,
        data_seed=values.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=on_gpu,
        disable_tqdm=True,
        report_to="none",
    )
