"""The guarded import of Triton."""

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU-only PyTorch, Windows
    triton = tl = None

__all__ = ["tl", "triton", "use_triton"]


def use_triton(tensor: torch.Tensor) -> bool:
    """Return whether the Triton kernels are used for ``tensor``."""
    return triton is not None and tensor.is_cuda
