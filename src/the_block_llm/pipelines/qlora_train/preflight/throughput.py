"""How fast a model trains here, from a few real micro-batches, before hours are spent on it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from the_block_llm.models.factory import Trainable
from the_block_llm.pipelines.qlora_train.data.dataset import RowTable
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
    trainable: Trainable, rows: RowTable, micro_batch_rows: int, device: torch.device
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
