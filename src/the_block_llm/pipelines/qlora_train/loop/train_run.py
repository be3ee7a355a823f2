"""A training run, from packed rows to a finished adapter folder. Does not import Kedro."""

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

from the_block_llm.errors import (
    StoppedOnRequest,
    TrainingError,
    WorkerOutOfMemoryError,
    stored_data,
)
from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.models.factory import enable_expandable_segments
from the_block_llm.models.layerwise.planner.plan_search import MemoryPlan
from the_block_llm.models.plain.memory_plan import PlainMemoryPlan, lower_mmap_threshold
from the_block_llm.pipelines.qlora_train.checkpoint.adapter_output import (
    finished_adapter_folder,
    read_finished_reports,
    save_adapter,
)
from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import (
    RunFolder,
    open_run_on_all_processes,
)
from the_block_llm.pipelines.qlora_train.checkpoint.log_history import (
    best_validation,
    validations_since_best,
)
from the_block_llm.pipelines.qlora_train.checkpoint.run_metrics import run_metrics
from the_block_llm.pipelines.qlora_train.data.run_data import RunData, load_run_data
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop.progress_callback import (
    ProgressCallback,
    ProgressReporter,
)
from the_block_llm.pipelines.qlora_train.loop.sample_callback import SampleCallback
from the_block_llm.pipelines.qlora_train.loop.tensorboard import tensorboard_callback
from the_block_llm.pipelines.qlora_train.loop.trainer import QloraTrainer, checkpoint_weights
from the_block_llm.pipelines.qlora_train.loop.training_arguments import (
    per_device_batch_rows,
    training_arguments,
)
from the_block_llm.pipelines.qlora_train.model_setup import load_model, plan_run_memory
from the_block_llm.pipelines.qlora_train.preflight.throughput import (
    estimate_seconds,
    measure_throughput,
)
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.memory_stats import (
    format_duration,
    reset_peak_memory,
)
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import (
    copy_trainable_parameters,
    free_memory,
    is_out_of_memory,
    restore_parameters,
)
from the_block_llm.pipelines.qlora_train.runtime.signals import stop_on_signals
from the_block_llm.progress import progress_bar

_log = logging.getLogger(__name__)
# Shorter runs show the time left after their first steps, before a measurement would be done.
_LONG_RUN_MICRO_BATCHES: Final = 200
ShowProgress = Callable[[str, float | None], AbstractContextManager[ProgressReporter]]


class TrainingOutcome(BaseModel, frozen=True):
    """The adapter folder and the metrics of a finished run."""

    adapter_folder: Path
    metrics: dict[str, Any]
    answers: dict[str, Any]
    """Answers to the probe questions after each epoch, as in ``training_answers.json``."""


def train(job: TrainingJob, show_progress: ShowProgress = progress_bar) -> TrainingOutcome:
    """Train an adapter in this process, resuming an interrupted run of the same job.

    Args:
        job: The run.
        show_progress: Opens a progress bar for a description and a total.

    Returns:
        The outcome; its adapter folder is complete, under ``job.work_folder``, and has yet to be
        moved to its version.

    Raises:
        TooLittleDataError: There is no row with a target.
        TrainingError: The loss is NaN or diverges, a single row does not fit into memory, or
            there is an unfinished run with other settings.
        StorageError: A checkpoint or the adapter cannot be written.
        StoppedOnRequest: A signal stopped the run, which can be resumed.
        AdapterTargetError: A LoRA target matches no layer.
        ModelUnavailableError: The base weights cannot be loaded.
    """
    enable_expandable_segments()
    distributed.init_process_group()
    data = load_run_data(job)
    reports = distributed.broadcast_from_main(
        None if job.restart_training else read_finished_reports(job)
    )
    if reports is not None:
        _log.info("The same run has already finished; its adapter is used")
        return TrainingOutcome(adapter_folder=finished_adapter_folder(job), **reports)
    job, memory = plan_run_memory(job, data)
    if memory is not None:
        _log.info("Memory: %s", memory.describe())
    if isinstance(memory, PlainMemoryPlan) and memory.lowers_mmap_threshold:
        lower_mmap_threshold()
    run = open_run_on_all_processes(job)
    try:
        outcome = _TrainingRun(job, data, memory, run, show_progress).execute()
    except BaseException:
        run.close()
        raise
    # All processes load the best checkpoint before it is deleted.
    distributed.barrier()
    if distributed.is_main_process():
        run.discard()
    return outcome


class _TrainingRun:
    """Model, data and run folder of a run, which is retried after running out of memory."""

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
        self._initial_parameters = copy_trainable_parameters(self._model)

    def execute(self) -> TrainingOutcome:
        """Train to the end and write the adapter."""
        latest = self._run.latest_checkpoint()
        resumed_from = None if latest is None else latest.name
        if resumed_from is not None:
            _log.info("Resuming the interrupted run from %s", resumed_from)
        reset_peak_memory(self._device)
        estimated_seconds = self._log_duration_estimate() if latest is None else None
        with self._show_progress("training", self._data.plan.steps) as bar:
            while True:
                trainer, progress = self._train_attempt(bar)
                if trainer is not None:
                    break
        log = self._load_best_weights(trainer.state.log_history, trainer.state.global_step)
        metrics = run_metrics(
            self._job, self._data.plan, self._data.train, self._data.order, self._run.state, log,
            progress.run_seconds, self._device, resumed_from, progress.stopped_early, self._memory,
        )  # fmt: skip
        metrics["expected_seconds"] = estimated_seconds
        reports = {
            "metrics": metrics,
            "answers": {
                "profile": self._job.profile.name,
                "questions": list(self._job.probe_questions),
                "answers": self._run.state.probe_answers,
            },
        }
        folder = finished_adapter_folder(self._job)
        if distributed.is_main_process():
            save_adapter(self._job, self._model, self._tokenizer, reports, self._device)
        return TrainingOutcome(adapter_folder=folder, **reports)

    def _log_duration_estimate(self) -> float | None:
        """Measure throughput before a long run; return the estimated seconds, without samples."""
        rows = per_device_batch_rows(self._job, self._run)
        micro_batches = self._data.plan.steps * self._job.values.effective_batch_rows // rows
        # Sharded processes must make the same passes, and may halve their rows independently.
        if micro_batches < _LONG_RUN_MICRO_BATCHES or self._trainable.is_sharded:
            return None
        throughput = measure_throughput(self._trainable, self._data.train, rows, self._device)
        seconds = estimate_seconds(self._data, self._job, throughput)
        _log.info(
            "About %s left, at %s tokens/s", format_duration(seconds),
            f"{throughput.train_tokens_per_second * self._job.n_processes:,.0f}",
        )  # fmt: skip
        return seconds

    def _load_best_weights(self, log: list[dict[str, Any]], last_step: int) -> list[dict[str, Any]]:
        """Load the best checkpoint's weights into the model.

        Returns:
            The log without validations whose checkpoint is missing, so that its best validation
            is that of the loaded weights.
        """
        available = list(log)
        while (best := best_validation(available)) is not None and best.step != last_step:
            weights = checkpoint_weights(self._run.checkpoint_path(best.step))
            if weights.is_file():
                set_peft_model_state_dict(self._model, load_file(weights))
                break
            _log.warning(
                "The best checkpoint, of step %d, is missing or damaged; using the next best",
                best.step,
            )
            missing = best.step
            available = [e for e in available if not ("eval_loss" in e and e["step"] == missing)]
        return available

    def _finished_state(self, checkpoint: Path | None) -> TrainerState | None:
        """Return the Trainer state if the run is already complete, else ``None``."""
        if checkpoint is None:
            return None
        remedy = "Discard it with --params=qlora_train.restart_training=true."
        with stored_data(f"The checkpoint {checkpoint}", remedy):
            state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        patience = self._job.early_stopping_patience
        patience_exhausted = patience and validations_since_best(state.log_history) >= patience
        return state if patience_exhausted or state.global_step >= self._data.plan.steps else None

    def _train_attempt(self, bar: ProgressReporter) -> tuple[QloraTrainer | None, ProgressCallback]:
        """Train from the newest checkpoint; return no Trainer after running out of memory."""
        with stop_on_signals() as request:
            values = self._job.values
            progress = ProgressCallback(
                bar, request, values.logging_steps, self._job.early_stopping_patience
            )
            latest = self._run.latest_checkpoint()
            trainer = self._build_trainer(progress, resumed=latest is not None)
            if latest is not None and (finished := self._finished_state(latest)) is not None:
                set_peft_model_state_dict(self._model, load_file(checkpoint_weights(latest)))
                trainer.state = finished
                progress.on_train_begin(trainer.args, finished, trainer.control)
                return trainer, progress
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
                        f"{self._data.plan.steps}. The checkpoint is kept; run the same command "
                        "to resume from it.",
                        exit_code=128 + request.signal,
                    )
                return trainer, progress
        # Outside the except block, whose traceback keeps the tensors alive.
        self._recover_from_out_of_memory(trainer, progress, memory_error)
        return None, progress

    def _recover_from_out_of_memory(
        self, trainer: QloraTrainer, progress: ProgressCallback, memory_error: str
    ) -> None:
        step = trainer.state.global_step
        rows = self._run.state.micro_batch_rows
        if distributed.world_size() > 1:
            raise WorkerOutOfMemoryError(memory_error, rows)
        if rows == 1:
            raise TrainingError(_single_row_message(self._data, step, memory_error))
        free_memory(self._model)
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        if step == 0:
            restore_parameters(self._model, self._initial_parameters)
        elif self._run.latest_checkpoint() != self._run.checkpoint_path(step):
            assert progress.rng_state is not None  # noqa: S101  # set in on_step_begin
            progress.rng_state.restore()
            trainer.save_checkpoint()
        self._run.state.micro_batch_rows = rows // 2
        self._run.state.out_of_memory.append({"step": step, "went_on_with_rows": rows // 2})
        self._run.save_state()
        _log.warning(
            "Out of memory after step %d with micro-batches of %d rows (%s). Resuming with %d and "
            "twice the gradient accumulation; the result stays the same.",
            step, rows, memory_error, rows // 2, extra={"markup": False},
        )  # fmt: skip

    def _build_trainer(self, progress: ProgressCallback, resumed: bool) -> QloraTrainer:
        job, data = self._job, self._data
        trainer = QloraTrainer(
            rows=data.train,
            order=data.order,
            run=self._run,
            progress=progress,
            checkpoints_kept=job.values.checkpoints_kept,
            sharded=self._trainable.is_sharded,
            model=self._model,
            args=training_arguments(
                job, data.plan, self._run, self._device, resumed, self._trainable.is_layerwise
            ),
            eval_dataset=data.validation,
            data_collator=self._trainable.collate,
            callbacks=[
                SampleCallback(
                    self._trainable,
                    # Only rank 0 generates, and a pass through sharded layers needs all ranks.
                    () if self._trainable.is_sharded else job.probe_questions,
                    self._tokenizer,
                    self._run,
                    data.order.epoch_end_steps,
                    job.probe_new_tokens,
                ),
                *tensorboard_callback(job.tensorboard_folder),
            ],
        )
        # It prints to the console, which would break the progress bar.
        trainer.remove_callback(PrinterCallback)
        return trainer


def _single_row_message(data: RunData, step: int, memory_error: str) -> str:
    return (
        f"Out of memory after step {step} with a single row of up to "
        f"{data.train.longest_row_tokens:,} tokens ({memory_error}). Checkpoints are kept. Use "
        "shorter rows (sequence_build.context_tokens) or a smaller adapter (lora.r of the "
        "profile), or close other programs that use memory."
    )
