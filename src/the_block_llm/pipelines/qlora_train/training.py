"""One training run, from packed rows to a finished adapter folder. No Kedro here."""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from peft import set_peft_model_state_dict
from pydantic import BaseModel
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.errors import ParameterError, TooLittleDataError, TrainingError
from the_block_llm.models.base_models import load_tokenizer
from the_block_llm.models.layerwise.plan import MemoryPlan
from the_block_llm.models.trainable import (
    Trainable,
    hold_to_cap,
    let_memory_grow_in_place,
    load_trainable,
    plan_memory,
)
from the_block_llm.pipelines.qlora_train import ranks
from the_block_llm.pipelines.qlora_train.epochs import EpochPlan, plan_epochs
from the_block_llm.pipelines.qlora_train.exact_base import keep_differentiable
from the_block_llm.pipelines.qlora_train.finished_adapter import (
    finished_folder,
    finished_reports,
    save_adapter,
)
from the_block_llm.pipelines.qlora_train.history import best_validation, validations_since_best
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.measuring import spoken_duration
from the_block_llm.pipelines.qlora_train.out_of_memory import (
    free_memory,
    is_out_of_memory,
    put_back,
    trainable_tensors,
)
from the_block_llm.pipelines.qlora_train.probing import EpochProbe
from the_block_llm.pipelines.qlora_train.row_order import BLANK, RowOrder, order_rows
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
# Below this a run tells its own duration as soon as timing it beforehand would.
_LONG_RUN_MICRO_BATCHES: Final = 200
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
    let_memory_grow_in_place()
    ranks.join_processes()
    data = read_rows(job)
    reports = ranks.from_first(None if job.start_anew else finished_reports(job))
    if reports is not None:
        _log.info("An equal run had finished already; its adapter is put in place")
        return TrainingOutcome(adapter_folder=finished_folder(job), **reports)
    job, memory = plan_for(job, data)
    if memory is not None:
        _log.info("Memory: %s", memory.describe())
    run = open_for_all(job)
    try:
        outcome = _Run(job, data, memory, run, show_progress).complete()
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
    if job.stage_epochs and job.force_epochs is None and bool(np.any(train_rows.stages)):
        order = order_rows(train_rows.stages, job.stage_epochs, batch, values.seed)
        plan = replace(
            plan,
            epochs=max(job.stage_epochs.values()),
            reason="the stages of the curriculum",
            steps=min(order.steps, job.max_steps or order.steps),
        )
    return RunData(train=train_rows, validation=validation_rows, plan=plan, order=order)


def plan_for(job: TrainingJob, data: RunData) -> tuple[TrainingJob, MemoryPlan | None]:
    """How the run will use memory, and the job with the micro-batch of that plan.

    Raises:
        MemoryPlanError: Nothing fits; the message says what would.
    """
    device = ranks.local_device()
    hold_to_cap(device, job.limits.device_gib)
    if ranks.n_processes() > 1:
        # Gradients are averaged by hooks of autograd, which the layerwise engine goes around.
        return job, None
    plan = plan_memory(
        job.profile,
        data.train.longest_row_tokens,
        job.values.effective_batch_rows,
        device,
        job.limits,
    )
    if plan is None:
        return job, None
    values = job.values.model_copy(update={"micro_batch_rows": plan.micro_batch_rows})
    return job.model_copy(update={"values": values}), plan


def load_model(
    job: TrainingJob, plan: MemoryPlan | None, tokenizer: PreTrainedTokenizerFast
) -> Trainable:
    """The job's base in 4 bits, with a fresh adapter.

    Raises:
        AdapterTargetError: A LoRA target matches no layer.
        ModelUnavailableError: The base weights cannot be had.
    """
    device = ranks.local_device()
    trainable = load_trainable(
        job.profile, job.values.seed, device, plan, tokenizer, job.added_tokens
    )
    keep_differentiable(trainable.model)
    return trainable


def measure(job: TrainingJob, plan: MemoryPlan | None, data: RunData) -> Speed:
    """Load the model, time real passes over the longest rows, and let go of it."""
    trainable = load_model(job, plan, load_tokenizer(job.profile, job.added_tokens))
    return measure_speed(trainable, data.train, job.values.micro_batch_rows, ranks.local_device())


def expected_seconds(data: RunData, job: TrainingJob, speed: Speed) -> float:
    """Training and validation passes at the measured speed; probes and saving come on top."""
    plan = data.plan
    share = plan.steps / max(1, data.order.steps)
    places = data.order.rows[data.order.rows != BLANK]
    train_tokens = int(data.train.tokens[places].sum()) * share
    validations = 1 + math.ceil(plan.steps / job.values.eval_steps)
    return round(
        train_tokens / speed.train_tokens_per_second / job.n_processes
        + validations * int(data.validation.tokens.sum()) / speed.validation_tokens_per_second,
        1,
    )


class _Run:
    """Model, rows and folder of a run, through as many attempts as memory needs."""

    def __init__(
        self,
        job: TrainingJob,
        data: RunData,
        memory: MemoryPlan | None,
        run: RunFolder,
        show_progress: ShowProgress,
    ) -> None:
        self._job = job
        self._data = data
        self._run = run
        self._show_progress = show_progress
        self._device = ranks.local_device()
        self._tokenizer: PreTrainedTokenizerFast = load_tokenizer(job.profile, job.added_tokens)
        self._memory = memory
        self._trainable = load_model(job, memory, self._tokenizer)
        self._model = self._trainable.model
        self._untrained = trainable_tensors(self._model)

    def complete(self) -> TrainingOutcome:
        """Train to the end and write the adapter."""
        latest = self._run.latest()
        began_from = None if latest is None else latest.name
        if began_from is not None:
            _log.info("Resuming the run that was cut off, from %s", began_from)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        expected = self._say_how_long() if latest is None else None
        with self._show_progress("training", self._data.plan.steps) as bar:
            while True:
                trainer, watcher = self._attempt(bar)
                if trainer is not None:
                    break
        log = self._take_best(trainer.state.log_history, trainer.state.global_step)
        metrics = run_metrics(
            self._job, self._data.plan, self._data.train, self._data.order, self._run.state, log,
            watcher.run_seconds, self._device, began_from, watcher.stopped_early, self._memory,
        )  # fmt: skip
        metrics["expected_seconds"] = expected
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

    def _say_how_long(self) -> float | None:
        """Time a few passes before a long run; gives the seconds it will take, without probes."""
        rows = micro_batch_rows(self._job, self._run)
        batches = self._data.plan.steps * self._job.values.effective_batch_rows // rows
        if batches < _LONG_RUN_MICRO_BATCHES:
            return None
        speed = measure_speed(self._trainable, self._data.train, rows, self._device)
        seconds = expected_seconds(self._data, self._job, speed)
        _log.info(
            "About %s to go, at %s tokens/s", spoken_duration(seconds),
            f"{speed.train_tokens_per_second * self._job.n_processes:,.0f}",
        )  # fmt: skip
        return seconds

    def _take_best(self, log: list[dict[str, Any]], last_step: int) -> list[dict[str, Any]]:
        """Put the best weights into the model; gives the log of what they were chosen from."""
        kept = list(log)
        while (best := best_validation(kept)) is not None and best.step != last_step:
            weights = checkpoint_weights(self._run.checkpoint(best.step))
            if weights.is_file():
                set_peft_model_state_dict(self._model, load_file(weights))
                break
            _log.warning(
                "The best checkpoint, of step %d, is gone or damaged; the next best is taken",
                best.step,
            )
            lost = best.step
            kept = [e for e in kept if not ("eval_loss" in e and e["step"] == lost)]
        return kept

    def _ended(self, checkpoint: Path | None) -> TrainerState | None:
        """The state of a run that was over before it was killed; none where steps are left."""
        if checkpoint is None:
            return None
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        patience = self._job.early_stopping_patience
        gave_up = patience and validations_since_best(state.log_history) >= patience
        return state if gave_up or state.global_step >= self._data.plan.steps else None

    def _attempt(self, bar: Bar) -> tuple[RunTrainer | None, RunWatcher]:
        """Train from the newest checkpoint; gives no Trainer where memory ran out."""
        with stop_on_signals() as request:
            values = self._job.values
            watcher = RunWatcher(
                bar, request, values.logging_steps, self._job.early_stopping_patience
            )
            latest = self._run.latest()
            trainer = self._trainer(watcher, resumed=latest is not None)
            if latest is not None and (ended := self._ended(latest)) is not None:
                set_peft_model_state_dict(self._model, load_file(checkpoint_weights(latest)))
                trainer.state = ended
                watcher.on_train_begin(trainer.args, ended, trainer.control)
                return trainer, watcher
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
            args=_arguments(
                job, data.plan, self._run, self._device, resumed, self._trainable.layerwise
            ),
            eval_dataset=data.validation,
            data_collator=self._trainable.collate,
            callbacks=[
                EpochProbe(
                    self._trainable,
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


def _arguments(
    job: TrainingJob,
    plan: EpochPlan,
    run: RunFolder,
    device: torch.device,
    resumed: bool,
    layerwise: bool,
) -> TrainingArguments:
    values = job.values
    on_gpu = device.type == "cuda"
    # The layerwise engine knows its types and recomputes by itself.
    helped = on_gpu and not layerwise
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
        # Not the paged one: its managed memory counts as no one's, and moves unasked.
        optim="adamw_8bit" if on_gpu else "adamw_torch",
        bf16=helped,
        use_cpu=not on_gpu,
        ddp_backend=ranks.backend(),
        ddp_find_unused_parameters=False,
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
