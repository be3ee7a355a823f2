"""Training throughput, measured on a few real micro-batches before a long run."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.models.factory import TrainableModel
from the_block_llm.models.layerwise.planner.plan_search import MemoryPlan
from the_block_llm.models.plain.memory_plan import PlainMemoryPlan
from the_block_llm.pipelines.qlora_train.data.dataset import RowDataset
from the_block_llm.pipelines.qlora_train.data.run_data import RunData
from the_block_llm.pipelines.qlora_train.data.sample_order import PADDING_INDEX
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.model_setup import load_model
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import free_memory, is_out_of_memory

# The fastest counts: the first pass of a shape also allocates memory and selects kernels.
_REPETITIONS: Final = 3


@dataclass(frozen=True)
class Throughput:
    """Throughput on the longest rows."""

    micro_batch_rows: int
    """Rows of a pass; fewer than requested after running out of memory."""
    train_tokens_per_second: float
    validation_tokens_per_second: float


def measure_throughput(
    trainable: TrainableModel, rows: RowDataset, micro_batch_rows: int, device: torch.device
) -> Throughput:
    """Time forward and backward passes over the longest rows, without updating the weights.

    After running out of memory the rows are halved, down to one.

    Raises:
        RuntimeError: A single row does not fit into memory.
    """
    model = trainable.model
    longest_first = np.argsort(-rows.tokens, kind="stable")
    batch_rows = min(micro_batch_rows, len(rows))
    while True:
        indices = longest_first[:batch_rows]
        batch = [rows[int(index)] for index in indices]
        tokens = int(rows.tokens[indices].sum())
        try:
            inputs = {
                name: value.to(device) if isinstance(value, torch.Tensor) else value
                for name, value in trainable.collate(batch).items()
            }
            train_s = _best_seconds(lambda: _train_pass(model, inputs), device)  # noqa: B023  # called here
            validation_s = _best_seconds(lambda: _validation_pass(model, inputs), device)  # noqa: B023
        except (RuntimeError, MemoryError) as error:
            if batch_rows == 1 or not is_out_of_memory(error):
                raise
        else:
            free_memory(model)
            return Throughput(batch_rows, tokens / train_s, tokens / validation_s)
        batch_rows //= 2
        free_memory(model)


def load_and_measure_throughput(
    job: TrainingJob, plan: MemoryPlan | PlainMemoryPlan | None, data: RunData
) -> Throughput:
    """Load the model, measure its throughput, and release it."""
    trainable = load_model(job, plan, load_tokenizer(job.profile, job.added_tokens))
    return measure_throughput(
        trainable, data.train, job.values.micro_batch_rows, distributed.local_device()
    )


def estimate_seconds(data: RunData, job: TrainingJob, throughput: Throughput) -> float:
    """Estimate the duration of all training and validation passes, without samples and saving."""
    plan = data.plan
    # max_steps may end the run before the end of the sample order.
    fraction = plan.steps / max(1, data.order.steps)
    indices = data.order.indices[data.order.indices != PADDING_INDEX]
    train_tokens = int(data.train.tokens[indices].sum()) * fraction
    n_validations = 1 + math.ceil(plan.steps / job.values.eval_steps)
    validation_tokens = n_validations * int(data.validation.tokens.sum())
    return round(
        train_tokens / throughput.train_tokens_per_second / job.n_processes
        + validation_tokens / throughput.validation_tokens_per_second,
        1,
    )


def _train_pass(model: Any, inputs: dict[str, Any]) -> None:
    model.train()
    with _autocast(inputs["input_ids"].device):
        loss = model(**inputs).loss
    loss.backward()
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def _validation_pass(model: Any, inputs: dict[str, Any]) -> None:
    model.eval()
    with _autocast(inputs["input_ids"].device):
        model(**inputs)


def _autocast(device: torch.device) -> Any:
    # The precision of the Trainer: bfloat16 on a GPU, float32 on the CPU.
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _best_seconds(run_pass: Callable[[], None], device: torch.device) -> float:
    best = float("inf")
    for _ in range(_REPETITIONS):
        start = time.perf_counter()
        run_pass()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
