"""What one of several processes of a run has to know about the others."""

import os
from datetime import timedelta
from typing import Final, TypeVar

import torch
from torch import distributed

from the_block_llm.errors import ParameterError

_T = TypeVar("_T")
# While the first process answers probe questions or hashes a checkpoint, the others wait.
_LONGEST_WAIT: Final = timedelta(hours=2)


def join_processes() -> None:
    """Meet the other processes of this run, if torchrun started several.

    Raises:
        ParameterError: There are more processes on this machine than GPUs.
    """
    if n_processes() == 1 or distributed.is_initialized():
        return
    device = local_device()
    if device.type == "cuda":
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > gpus:
            raise ParameterError(
                f"{here} training processes were started on a machine with {gpus} GPUs. Every "
                f"process needs one of its own: set qlora_train.n_processes to {gpus}, or start "
                "the others on more machines."
            )
        torch.cuda.set_device(device)
    distributed.init_process_group(
        backend(),
        timeout=_LONGEST_WAIT,
        # NCCL else guesses it at the first barrier.
        device_id=device if device.type == "cuda" else None,
    )


def leave_processes() -> None:
    """Part from the others after a run that went well; otherwise it could wait for the dead."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


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
