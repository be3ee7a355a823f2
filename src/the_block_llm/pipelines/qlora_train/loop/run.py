"""One training run, from packed rows to a finished adapter folder. No Kedro here."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from peft import set_peft_model_state_dict
from pydantic import BaseModel
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from the_block_llm.errors import StoppedOnRequest, TrainingError, WorkerOutOfMemoryError
from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.models.factory import enable_expandable_segments
from the_block_llm.models.layerwise.planner.plan_search import MemoryPlan
from the_block_llm.models.plain.memory_plan import PlainMemoryPlan, lower_mmap_threshold
from the_block_llm.pipelines.qlora_train.checkpoint.adapter_output import (
    finished_folder,
    finished_reports,
    save_adapter,
)
from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import RunFolder, open_for_all
from the_block_llm.pipelines.qlora_train.checkpoint.log_history import (
    best_validation,
    validations_since_best,
)
from the_block_llm.pipelines.qlora_train.checkpoint.run_metrics import run_metrics
from the_block_llm.pipelines.qlora_train.data.run_data import RunData, read_rows
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop.progress_callback import Bar, RunWatcher
from the_block_llm.pipelines.qlora_train.loop.sample_callback import EpochProbe
from the_block_llm.pipelines.qlora_train.loop.tensorboard import tensorboard_callback
from the_block_llm.pipelines.qlora_train.loop.trainer import RunTrainer, checkpoint_weights
from the_block_llm.pipelines.qlora_train.loop.training_arguments import (
    micro_batch_rows,
    training_arguments,
)
from the_block_llm.pipelines.qlora_train.model_setup import load_model, plan_for
from the_block_llm.pipelines.qlora_train.preflight.throughput import expected_seconds, measure_speed
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.memory_stats import forget_peak, spoken_duration
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import (
    free_memory,
    is_out_of_memory,
    put_back,
    trainable_tensors,
)
from the_block_llm.pipelines.qlora_train.runtime.signals import stop_on_signals
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
    enable_expandable_segments()
    distributed.join_processes()
    data = read_rows(job)
    reports = distributed.from_first(None if job.restart_training else finished_reports(job))
    if reports is not None:
        _log.info("An equal run had finished already; its adapter is put in place")
        return TrainingOutcome(adapter_folder=finished_folder(job), **reports)
    job, memory = plan_for(job, data)
    if memory is not None:
        _log.info("Memory: %s", memory.describe())
    if isinstance(memory, PlainMemoryPlan) and memory.lowers_mmap_threshold:
        lower_mmap_threshold()
    run = open_for_all(job)
    try:
        outcome = _Run(job, data, memory, run, show_progress).complete()
    except BaseException:
        run.close()
        raise
    # The others read the best checkpoint as well.
    distributed.wait_for_all()
    if distributed.is_first():
        run.discard()
    return outcome


class _Run:
    """Model, rows and folder of a run, through as many attempts as memory needs."""

    def __init__(
        self,
        job: TrainingJob,
        data: RunData,
        memory: MemoryPlan | PlainMemoryPlan | None,
        run: RunFolder,
        show_progress: ShowProgress,
    ) -> None:
        self._job = job
        self._data = data
        self._run = run
        self._show_progress = show_progress
        self._device = distributed.local_device()
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
        forget_peak(self._device)
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
        if distributed.is_first():
            save_adapter(self._job, self._model, self._tokenizer, reports, self._device)
        return TrainingOutcome(adapter_folder=folder, **reports)

    def _say_how_long(self) -> float | None:
        """Time a few passes before a long run; gives the seconds it will take, without probes."""
        rows = micro_batch_rows(self._job, self._run)
        batches = self._data.plan.steps * self._job.values.effective_batch_rows // rows
        # How often it times depends on the time, which would leave sharded processes apart.
        if batches < _LONG_RUN_MICRO_BATCHES or self._trainable.is_sharded:
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
        if distributed.n_processes() > 1:
            raise WorkerOutOfMemoryError(memory_error, rows)
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
            in_step=self._trainable.is_sharded,
            model=self._model,
            args=training_arguments(
                job, data.plan, self._run, self._device, resumed, self._trainable.is_layerwise
            ),
            eval_dataset=data.validation,
            data_collator=self._trainable.collate,
            callbacks=[
                EpochProbe(
                    self._trainable,
                    # The first process asks, and cannot make a pass alone.
                    () if self._trainable.is_sharded else job.probe_questions,
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


def _nothing_left_to_halve(data: RunData, step: int, memory_error: str) -> str:
    return (
        f"Out of memory after step {step} with a single row of up to "
        f"{data.train.longest_row_tokens:,} tokens ({memory_error}). What was learned is kept. "
        "Use shorter rows (sequence_build.context_tokens), a smaller adapter (lora.r of the "
        "profile), or free memory that other programs hold."
    )
