"""The Trainer of this project: a fixed row order, whole checkpoints, exact validation."""

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
from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import RunFolder
from the_block_llm.pipelines.qlora_train.checkpoint.log_history import best_validation
from the_block_llm.pipelines.qlora_train.data.dataset import OrderedRows, RowTable
from the_block_llm.pipelines.qlora_train.data.sampler import BLANK, RowOrder
from the_block_llm.pipelines.qlora_train.loop.progress_callback import RunWatcher
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.memory_stats import memory_gib
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import is_out_of_memory

_log = logging.getLogger(__name__)


class RunTrainer(Trainer):
    """Goes through the rows as their order says, and knows what belongs to a checkpoint."""

    def __init__(
        self,
        *,
        rows: RowTable,
        order: RowOrder,
        run: RunFolder,
        watcher: RunWatcher,
        checkpoints_kept: int,
        in_step: bool = False,
        **options: Any,
    ) -> None:
        """Make a Trainer over ``rows``; ``options`` are those of transformers.

        With ``in_step`` every pass through the model is one of all processes together.
        """
        super().__init__(train_dataset=OrderedRows(rows, order.rows), **options)
        self.add_callback(watcher)
        self._watcher = watcher
        self._run = run
        self._checkpoints_kept = checkpoints_kept
        self._in_step = in_step
        self._step_tokens = _tokens_of_steps(rows, order)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # The dataset is the order.
        return SequentialSampler(train_dataset or self.train_dataset)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        # accelerate refuses a model with sharded parameters. Only what is whole is averaged.
        if not (training and self._in_step):
            return super()._wrap_model(model, training, dataloader)
        if isinstance(model, DistributedDataParallel):
            return model
        device = self.args.device
        return DistributedDataParallel(model, [device] if device.type == "cuda" else None)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        """Compute in the run's types where accelerate, which would see to it, holds no model."""
        if not self._in_step:
            return super().autocast_smart_context_manager(cache_enabled)
        kind = self.args.device.type
        return torch.autocast(kind, torch.bfloat16, bool(self.args.bf16), cache_enabled)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write down what a step cost beside its loss."""
        if "loss" in logs:
            logs["tokens"] = int(self._step_tokens[self.state.global_step - 1])
            logs["step_seconds"] = round(self._watcher.step_seconds, 4)
            logs["seconds"] = round(self._watcher.run_seconds, 2)
            logs["memory_gib"] = round(memory_gib(self.args.device), 4)
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Mean loss of all targets of the validation rows.

        Every target weighs the same, however rows are split over micro-batches and processes;
        where memory runs out, fewer rows go together.
        """
        del args, options
        model = self.model
        was_training = model.training
        model.eval()
        rows: Any = self.eval_dataset
        mine = range(distributed.rank(), len(rows), distributed.n_processes())
        total = torch.zeros(2, dtype=torch.float64)
        together = self._run.state.micro_batch_rows
        at = 0
        while at < len(mine):
            part = mine[at : at + together]
            try:
                total += self._loss_sum([rows[index] for index in part])
            except (RuntimeError, MemoryError) as error:
                if together == 1 or self._in_step or not is_out_of_memory(error):
                    raise
                together //= 2
                _log.warning("Out of memory in validation; %d rows at a time now", together)
                continue
            at += len(part)
        if self._in_step and len(mine) % together == 0 and len(mine) < _most(rows):
            # Another process has a pass more, and cannot make it alone.
            self._loss_sum([rows[0]])
        model.train(was_training)
        loss, targets = distributed.sum_over_all(total.to(self.args.device)).tolist()
        metrics = {"eval_loss": loss / max(1.0, targets)}
        self.log(metrics)
        control: Any = self.control  # type: ignore[has-type]  # of an untyped parent
        self.control = self.callback_handler.on_evaluate(self.args, self.state, control, metrics)
        return metrics

    def _loss_sum(self, rows: Sequence[Any]) -> torch.Tensor:
        inputs = self._prepare_inputs(self.data_collator(rows))
        with self.compute_loss_context_manager():
            # Divided by one: the sum over the targets.
            loss = self.model(**inputs, num_items_in_batch=1).loss
        targets = int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum())
        return torch.tensor([float(loss), float(targets)], dtype=torch.float64)

    def save_now(self) -> None:
        """Write a checkpoint of the last finished step."""
        self._save_checkpoint(self.model, None)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        del state_dict
        # The embedding is frozen and stays with the base; "auto" would ask the Hub about it.
        self.model.save_pretrained(str(output_dir), save_embedding_layers=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        try:
            super()._save_checkpoint(model, trial)
            distributed.wait_for_all()
            if distributed.is_first():
                self._run.mark_complete(step)
        except (OSError, RuntimeError, SafetensorError, StorageError) as error:
            if is_out_of_memory(error):
                raise
            raise StorageError(self._cannot_save(step, error)) from error
        if distributed.is_first():
            best = best_validation(self.state.log_history)
            self._run.prune(self._checkpoints_kept, best.step if best else None)

    def _cannot_save(self, step: int, error: BaseException) -> str:
        folder = self._run.checkpoint(step)
        free = shutil.disk_usage(folder.parent).free
        shutil.rmtree(folder, ignore_errors=True)
        last = self._run.latest()
        kept = (
            f"{last.name} is whole, and the same command goes on from it."
            if last
            else "There is no earlier one, so the same command begins again."
        )
        return (
            f"The checkpoint of step {step} could not be written to {folder.parent}, where "
            f"{free / 2**20:,.0f} MB are free: {_reason(error)}. {kept} Free some space first, "
            "or lower checkpoints_kept of the profile."
        )


def _most(rows: Any) -> int:
    """Rows of the process that has most of them."""
    return -(-len(rows) // distributed.n_processes())


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__
    os_error = next((e for e in (error, cause) if isinstance(e, OSError) and e.strerror), None)
    return os_error.strerror or str(error) if os_error else str(error).splitlines()[0]


def _tokens_of_steps(rows: RowTable, order: RowOrder) -> np.ndarray[Any, Any]:
    tokens = np.where(order.rows == BLANK, 0, rows.tokens[order.rows])
    return np.asarray(tokens.reshape(-1, order.batch_rows).sum(axis=1))


def checkpoint_weights(checkpoint: Path) -> Path:
    """The adapter's weights inside a checkpoint."""
    return checkpoint / WEIGHTS_NAME
