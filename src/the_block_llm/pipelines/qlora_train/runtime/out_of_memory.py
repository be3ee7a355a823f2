"""Going on after memory ran out, with fewer rows at a time."""

import gc
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


def is_out_of_memory(error: BaseException) -> bool:
    """True where ``error`` says that a device, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text
        or "can't allocate memory" in text  # torch's CPU allocator
        or "cublas_status_alloc_failed" in text
    )


@dataclass(frozen=True)
class RandomStates:
    """All random generators that training draws from, at one moment."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    cuda: list[torch.Tensor]

    @classmethod
    def now(cls) -> "RandomStates":
        """Note the states."""
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(),  # noqa: NPY002  # the one that libraries use
            cpu=torch.get_rng_state(),
            cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        )

    def restore(self) -> None:
        """Set the generators back to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


def trainable_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of everything that is trained, in host memory."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def put_back(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Undo training: write ``tensors`` into the parameters of their names."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tensors:
                parameter.copy_(tensors[name])


def free_memory(model: torch.nn.Module) -> None:
    """Let go of gradients and of what the allocator holds for later."""
    model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
