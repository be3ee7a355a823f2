"""Trainer with a fixed sample order, verified checkpoints and token-weighted validation."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import SequentialSampler
from transformers import Trainer

from the_block_llm.errors import StorageError
from the_block_llm.models.adapter.manifest import WEIGHTS_NAME
from the_block_llm.models.collate import IGNORE_INDEX
from the_block_llm.os_errors import explain
from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import RunFolder
from the_block_llm.pipelines.qlora_train.checkpoint.log_history import best_validation
from the_block_llm.pipelines.qlora_train.data.dataset import OrderedDataset, RowDataset
from the_block_llm.pipelines.qlora_train.data.sample_order import PADDING_INDEX, SampleOrder
from the_block_llm.pipelines.qlora_train.loop.progress_callback import ProgressCallback
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.memory_stats import step_memory_gib
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import is_out_of_memory

_log = logging.getLogger(__name__)


class QloraTrainer(Trainer):
    """Trains on rows in a precomputed order, and writes and prunes verified checkpoints."""

    def __init__(
        self,
        *,
        rows: RowDataset,
        order: SampleOrder,
        run: RunFolder,
        progress: ProgressCallback,
        checkpoints_kept: int,
        sharded: bool = False,
        **options: Any,
    ) -> None:
        """Create a Trainer over ``rows``.

        Args:
            rows: The training rows.
            order: Their order.
            run: The run folder.
            progress: Measures steps, and decides when to validate, save and stop.
            checkpoints_kept: Number of checkpoints to keep, besides the best.
            sharded: Whether the frozen layers are sharded, so that every pass through the model
                is a collective operation of all processes.
            **options: Arguments of ``transformers.Trainer``.
        """
        super().__init__(train_dataset=OrderedDataset(rows, order.indices), **options)
        self.add_callback(progress)
        self._progress = progress
        self._run = run
        self._checkpoints_kept = checkpoints_kept
        self._sharded = sharded
        self._tokens_per_step = _count_tokens_per_step(rows, order)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # OrderedDataset is already in training order.
        return SequentialSampler(train_dataset or self.train_dataset)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        # accelerate rejects a model with sharded parameters. DDP averages only the unsharded
        # ones, which are those that are trained.
        if not (training and self._sharded):
            return super()._wrap_model(model, training, dataloader)
        if isinstance(model, DistributedDataParallel):
            return model
        device = self.args.device
        return DistributedDataParallel(model, [device] if device.type == "cuda" else None)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        """Enable autocast for sharded models, which accelerate does not prepare."""
        if not self._sharded:
            return super().autocast_smart_context_manager(cache_enabled)
        device_type = self.args.device.type
        return torch.autocast(device_type, torch.bfloat16, bool(self.args.bf16), cache_enabled)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add tokens, duration and memory of a training step to its log entry."""
        if "loss" in logs:
            logs["tokens"] = int(self._tokens_per_step[self.state.global_step - 1])
            logs["step_seconds"] = round(self._progress.step_seconds, 4)
            logs["seconds"] = round(self._progress.run_seconds, 2)
            logs["memory_gib"] = round(step_memory_gib(self.args.device), 4)
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Return the mean loss over all targets of the validation rows.

        Every target has the same weight, however rows are split over micro-batches and processes.
        After running out of memory the micro-batch is halved.
        """
        del args, options
        model = self.model
        was_training = model.training
        model.eval()
        rows: Any = self.eval_dataset
        local_indices = range(distributed.get_rank(), len(rows), distributed.world_size())
        total = torch.zeros(2, dtype=torch.float64)
        micro_batch_rows = self._run.state.micro_batch_rows
        start = 0
        while start < len(local_indices):
            batch = local_indices[start : start + micro_batch_rows]
            try:
                total += self._loss_sum([rows[index] for index in batch])
            except (RuntimeError, MemoryError) as error:
                if micro_batch_rows == 1 or self._sharded or not is_out_of_memory(error):
                    raise
                micro_batch_rows //= 2
                _log.warning("Out of memory in validation; retrying with %d rows", micro_batch_rows)
                continue
            start += len(batch)
        n_local = len(local_indices)
        if (
            self._sharded
            and n_local % micro_batch_rows == 0
            and n_local < _max_rows_per_process(rows)
        ):
            # Another process has one more batch, whose pass is a collective: join it.
            self._loss_sum([rows[0]])
        model.train(was_training)
        loss, targets = distributed.all_reduce_sum(total.to(self.args.device)).tolist()
        metrics = {"eval_loss": loss / max(1.0, targets)}
        self.log(metrics)
        control: Any = self.control  # type: ignore[has-type]  # of an untyped parent
        self.control = self.callback_handler.on_evaluate(self.args, self.state, control, metrics)
        return metrics

    def _loss_sum(self, rows: Sequence[Any]) -> torch.Tensor:
        """Return summed loss and number of targets of one batch, shape ``(2,)``, float64."""
        inputs = self._prepare_inputs(self.data_collator(rows))
        with self.compute_loss_context_manager():
            # num_items_in_batch is the divisor of the loss: 1 returns the sum over the targets.
            loss = self.model(**inputs, num_items_in_batch=1).loss
        targets = int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum())
        return torch.tensor([float(loss), float(targets)], dtype=torch.float64)

    def save_checkpoint(self) -> None:
        """Write a checkpoint of the last completed step."""
        self._save_checkpoint(self.model, None)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        del state_dict
        # The frozen embedding is part of the base; "auto" would query the Hub for its size.
        self.model.save_pretrained(str(output_dir), save_embedding_layers=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        try:
            super()._save_checkpoint(model, trial)
            distributed.barrier()
            if distributed.is_main_process():
                self._run.mark_complete(step)
        except (OSError, RuntimeError, SafetensorError, StorageError) as error:
            if is_out_of_memory(error):
                raise
            raise StorageError(self._save_failure_message(step, error)) from error
        if distributed.is_main_process():
            best = best_validation(self.state.log_history)
            self._run.prune(self._checkpoints_kept, best.step if best else None)

    def _save_failure_message(self, step: int, error: BaseException) -> str:
        folder = self._run.checkpoint_path(step)
        free_bytes = shutil.disk_usage(folder.parent).free
        shutil.rmtree(folder, ignore_errors=True)
        latest = self._run.latest_checkpoint()
        resume = (
            f"{latest.name} is complete; run the same command to resume from it."
            if latest
            else "There is no earlier checkpoint; the same command starts over."
        )
        return (
            f"The checkpoint of step {step} could not be written to {folder.parent}, where "
            f"{free_bytes / 2**20:,.0f} MB are free: "
            f"{explain(error, 'lower checkpoints_kept of the profile')} {resume}"
        )


def _max_rows_per_process(rows: Any) -> int:
    """Return the largest number of rows that a process has."""
    return -(-len(rows) // distributed.world_size())


def _count_tokens_per_step(rows: RowDataset, order: SampleOrder) -> np.ndarray[Any, Any]:
    tokens = np.where(order.indices == PADDING_INDEX, 0, rows.tokens[order.indices])
    return np.asarray(tokens.reshape(-1, order.batch_rows).sum(axis=1))


def checkpoint_weights(checkpoint: Path) -> Path:
    """Return the path of the adapter weights in a checkpoint."""
    return checkpoint / WEIGHTS_NAME
