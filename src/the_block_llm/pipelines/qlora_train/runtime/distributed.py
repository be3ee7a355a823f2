"""The process group of a run: ranks, barriers and collectives, all no-ops in a single process."""

import os
from datetime import timedelta
from typing import Final, TypeVar

import torch
from torch import distributed

from the_block_llm.errors import ParameterError

_T = TypeVar("_T")
# Long, since the other ranks wait while rank 0 generates samples or hashes a checkpoint.
_TIMEOUT: Final = timedelta(hours=2)


def init_process_group() -> None:
    """Join the process group, if torchrun started several processes.

    Raises:
        ParameterError: There are more processes on this machine than GPUs.
    """
    if world_size() == 1 or distributed.is_initialized():
        return
    device = local_device()
    if device.type == "cuda":
        n_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        n_gpus = torch.cuda.device_count()
        if n_local > n_gpus:
            raise ParameterError(
                f"{n_local} training processes were started on a machine with {n_gpus} GPUs, but "
                f"each process needs its own GPU. Set qlora_train.n_processes to {n_gpus}, or "
                "start the other processes on more machines."
            )
        torch.cuda.set_device(device)
    distributed.init_process_group(
        backend(),
        timeout=_TIMEOUT,
        # Otherwise NCCL guesses the device at the first barrier.
        device_id=device if device.type == "cuda" else None,
    )


def destroy_process_group() -> None:
    """Leave the process group after a successful run.

    After a failure it may hang, waiting for the failed rank.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def backend() -> str | None:
    """Return the process group's backend, or ``None`` in a single process."""
    if world_size() == 1:
        return None
    return "nccl" if torch.cuda.is_available() else "gloo"


def world_size() -> int:
    """Return the number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def get_rank() -> int:
    """Return the rank of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Return whether this process is rank 0, which alone writes files and shows progress."""
    return get_rank() == 0


def barrier() -> None:
    """Block until every process has reached this call."""
    if distributed.is_initialized():
        distributed.barrier()


def broadcast_from_main(value: _T) -> _T:
    """Return rank 0's ``value`` in every process."""
    if not distributed.is_initialized():
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum ``values`` over all processes, in place."""
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def local_device() -> torch.device:
    """Return the GPU of this process, or the CPU on a machine without one."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
