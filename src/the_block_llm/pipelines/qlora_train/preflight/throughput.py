"""How fast a model trains here, from a few real micro-batches, before hours are spent on it."""

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
from the_block_llm.pipelines.qlora_train.data.dataset import RowTable
from the_block_llm.pipelines.qlora_train.data.run_data import RunData
from the_block_llm.pipelines.qlora_train.data.sampler import BLANK
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.model_setup import load_model
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import free_memory, is_out_of_memory

# The first pass of a shape also allocates and picks kernels.
_REPETITIONS: Final = 3


@dataclass(frozen=True)
class Speed:
    """What was measured, on the longest rows."""

    micro_batch_rows: int
    """Fewer than asked for where memory ran out."""
    train_tokens_per_second: float
    validation_tokens_per_second: float


def measure_speed(
    trainable: TrainableModel, rows: RowTable, micro_batch_rows: int, device: torch.device
) -> Speed:
    """Time forward and backward passes over the longest rows; nothing is learned.

    Where memory runs out, half as many rows are tried, down to one.

    Raises:
        RuntimeError: One row is too much for the memory.
    """
    model = trainable.model
    longest = np.argsort(-rows.tokens, kind="stable")
    together = min(micro_batch_rows, len(rows))
    while True:
        part = [rows[int(index)] for index in longest[:together]]
        tokens = int(rows.tokens[longest[:together]].sum())
        try:
            inputs = {
                name: value.to(device) if isinstance(value, torch.Tensor) else value
                for name, value in trainable.collate(part).items()
            }
            train = _seconds(lambda: _train_pass(model, inputs), device)  # noqa: B023  # used at once
            validate = _seconds(lambda: _validation_pass(model, inputs), device)  # noqa: B023
        except (RuntimeError, MemoryError) as error:
            if together == 1 or not is_out_of_memory(error):
                raise
        else:
            free_memory(model)
            return Speed(together, tokens / train, tokens / validate)
        together //= 2
        free_memory(model)


def measure(job: TrainingJob, plan: MemoryPlan | PlainMemoryPlan | None, data: RunData) -> Speed:
    """Load the model, time real passes over the longest rows, and let go of it."""
    trainable = load_model(job, plan, load_tokenizer(job.profile, job.added_tokens))
    return measure_speed(
        trainable, data.train, job.values.micro_batch_rows, distributed.local_device()
    )


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
    # As the Trainer computes: bfloat16 on a GPU, float32 on the CPU.
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    best = float("inf")
    for _ in range(_REPETITIONS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best
