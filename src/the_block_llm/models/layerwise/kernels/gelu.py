"""GELU in its tanh approximation (Hendrycks and Gimpel 2016), forward and backward."""

import torch
from torch.nn import functional


def gelu(x: torch.Tensor, out: torch.Tensor) -> None:
    """Write ``gelu(x)`` into ``out``."""
    out.copy_(functional.gelu(x, approximate="tanh"))


def gelu_backward_(x: torch.Tensor, grad_output: torch.Tensor) -> None:
    """Overwrite ``x`` with its gradient, given that of :func:`gelu`'s output."""
    x.copy_(torch.ops.aten.gelu_backward(grad_output, x, approximate="tanh"))
