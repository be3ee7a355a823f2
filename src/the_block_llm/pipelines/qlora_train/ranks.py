"""What one of several processes of a run has to know about the others."""

import os
from datetime import timedelta
from typing import Final, TypeVar

import torch
from torch import distributed

_T = TypeVar("_T")
# While the first process answers probe questions or hashes a checkpoint, the others wait.
_LONGEST_WAIT: Final = timedelta(hours=2)


def join_processes() -> None:
    """Meet the other processes of this run, if torchrun started several."""
    if n_processes() > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(local_device())
        distributed.init_process_group(backend(), timeout=_LONGEST_WAIT)


def backend() -> str | None:
    """What the processes of this run talk through; none where there is one process."""
    if n_processes() == 1:
        return None
    return "nccl" if torch.cuda.is_available() else "gloo"


def n_processes() -> int:
    """Processes of this run; 1 where nobody started more."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """True in the one process that writes and shows."""
    return rank() == 0


def wait_for_all() -> None:
    """Go on once every process has come here."""
    if distributed.is_initialized():
        distributed.barrier()


def from_first(value: _T) -> _T:
    """The first process's ``value``, in every process."""
    if not distributed.is_initialized():
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def sum_over_all(values: torch.Tensor) -> torch.Tensor:
    """Add up ``values`` over the processes, in place."""
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def local_device() -> torch.device:
    """The GPU of this process where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
