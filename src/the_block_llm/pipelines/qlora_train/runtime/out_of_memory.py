"""Recovery from out-of-memory errors: detection, random state, and a copy of the parameters."""

import gc
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` reports exhausted device or host memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text
        or "can't allocate memory" in text  # torch's CPU allocator
        or "cublas_status_alloc_failed" in text
    )


@dataclass(frozen=True)
class RngState:
    """States of all random generators that training draws from."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    cuda: list[torch.Tensor]

    @classmethod
    def capture(cls) -> "RngState":
        """Return the current states."""
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(),  # noqa: NPY002  # libraries draw from the global one
            cpu=torch.get_rng_state(),
            cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        )

    def restore(self) -> None:
        """Set the generators to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


def copy_trainable_parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of all trainable parameters, by name, in host memory."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def restore_parameters(model: torch.nn.Module, saved: dict[str, torch.Tensor]) -> None:
    """Write ``saved`` into the model's parameters of the same names."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in saved:
                parameter.copy_(saved[name])


def free_memory(model: torch.nn.Module) -> None:
    """Drop the gradients and release the CUDA allocator's cached blocks."""
    model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
