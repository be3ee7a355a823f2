"""The norm of a decoder, forward and backward, into buffers that are there already."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from the_block_llm.models.layerwise.kernels import fused


@dataclass(frozen=True)
class Norm:
    """By root mean square alone, or, where there is a bias, by mean and variance."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float

    @classmethod
    def named(cls, name: str, tensors: Mapping[str, torch.Tensor], eps: float) -> "Norm":
        """The norm whose vectors are ``NAME.weight`` and, if it has one, ``NAME.bias``."""
        return cls(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), eps)

    def write(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Write the normed ``x``, ``(n, hidden)``, into ``out``."""
        if self.bias is None:
            fused.rms_norm(x, self.weight, self.eps, out)
        else:
            fused.layer_norm(x, self.weight, self.bias, self.eps, out)

    def add_backward(self, x: torch.Tensor, slope: torch.Tensor, into: torch.Tensor) -> None:
        """Add to ``into`` the gradient of ``x``, ``slope`` being that of the normed ``x``."""
        if self.bias is None:
            fused.add_rms_norm_backward(x, self.weight, self.eps, slope, into)
        else:
            fused.add_layer_norm_backward(x, self.weight, self.bias, self.eps, slope, into)
