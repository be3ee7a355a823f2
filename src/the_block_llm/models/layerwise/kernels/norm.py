"""RMSNorm and LayerNorm, forward and backward."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from the_block_llm.models.layerwise.kernels.triton_backend import tl, triton, use_triton


@dataclass(frozen=True)
class Norm:
    """The weights of a norm: LayerNorm where there is a bias, else RMSNorm."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float

    @classmethod
    def from_tensors(cls, name: str, tensors: Mapping[str, torch.Tensor], eps: float) -> "Norm":
        """Make the norm of ``NAME.weight`` and, if there is one, ``NAME.bias``."""
        return cls(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), eps)

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Write the norm of ``x``, ``(n, hidden_size)``, into ``out``."""
        if self.bias is None:
            rms_norm(x, self.weight, self.eps, out)
        else:
            layer_norm(x, self.weight, self.bias, self.eps, out)

    def accumulate_grad(
        self, x: torch.Tensor, grad_output: torch.Tensor, grad_input: torch.Tensor
    ) -> None:
        """Add the gradient of ``x`` to ``grad_input``."""
        if self.bias is None:
            accumulate_rms_norm_grad(x, self.weight, self.eps, grad_output, grad_input)
        else:
            accumulate_layer_norm_grad(x, self.weight, self.bias, self.eps, grad_output, grad_input)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """Write the RMSNorm of ``x``, ``(n, hidden_size)``, into ``out``."""
    if use_triton(x):
        n_rows, hidden_size = x.shape
        _rms_norm_kernel[(n_rows,)](
            x, weight, out, x.stride(0), out.stride(0), hidden_size, eps,
            triton.next_power_of_2(hidden_size), num_warps=8,
        )  # fmt: skip
        return
    x_fp32 = x.float()
    normed = (x_fp32 * torch.rsqrt(x_fp32.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    out.copy_(weight * normed)


def accumulate_rms_norm_grad(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    grad_output: torch.Tensor,
    grad_input: torch.Tensor,
) -> None:
    """Add the gradient of :func:`rms_norm`'s ``x`` to ``grad_input``."""
    if use_triton(x):
        n_rows, hidden_size = x.shape
        _rms_norm_backward_kernel[(n_rows,)](
            x, weight, grad_output, grad_input,
            x.stride(0), grad_output.stride(0), grad_input.stride(0), hidden_size, eps,
            triton.next_power_of_2(hidden_size), num_warps=8,
        )  # fmt: skip
        return
    x_fp32 = x.float()
    rstd = torch.rsqrt(x_fp32.square().mean(-1, keepdim=True) + eps)
    grad_normed = grad_output.float() * weight.float()
    projection = (grad_normed * x_fp32).mean(-1, keepdim=True)
    grad_input.add_((rstd * grad_normed - x_fp32 * rstd.pow(3) * projection).to(grad_input.dtype))


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, out: torch.Tensor
) -> None:
    """Write the LayerNorm of ``x``, ``(n, hidden_size)``, into ``out``."""
    out.copy_(functional.layer_norm(x, (x.shape[-1],), weight, bias, eps))


def accumulate_layer_norm_grad(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    grad_output: torch.Tensor,
    grad_input: torch.Tensor,
) -> None:
    """Add the gradient of :func:`layer_norm`'s ``x`` to ``grad_input``."""
    shape = [x.shape[-1]]
    _, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
    grad, _, _ = torch.ops.aten.native_layer_norm_backward(
        grad_output.contiguous(), x, shape, mean, rstd, weight, bias, [True, False, False]
    )
    grad_input.add_(grad)


if triton is not None:

    @triton.jit
    def _rms_norm_kernel(
        x, weight, out, x_stride, out_stride, hidden_size, eps, block_size: tl.constexpr
    ):
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, block_size)
        mask = column < hidden_size
        values = tl.load(x + row * x_stride + column, mask=mask, other=0.0).to(tl.float32)
        rstd = tl.rsqrt(tl.sum(values * values) / hidden_size + eps)
        # Rounded before the weight is applied, as in transformers.
        normed = (values * rstd).to(x.dtype.element_ty).to(tl.float32)
        scale = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + row * out_stride + column, (normed * scale).to(out.dtype.element_ty), mask)

    @triton.jit
    def _rms_norm_backward_kernel(
        x, weight, grad_output, grad_input, x_stride, grad_output_stride, grad_input_stride,
        hidden_size, eps, block_size: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, block_size)
        mask = column < hidden_size
        values = tl.load(x + row * x_stride + column, mask=mask, other=0.0).to(tl.float32)
        rstd = tl.rsqrt(tl.sum(values * values) / hidden_size + eps)
        grad_normed = tl.load(
            grad_output + row * grad_output_stride + column, mask=mask, other=0.0
        ).to(tl.float32)
        grad_normed *= tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
        projection = tl.sum(grad_normed * values) / hidden_size
        grad = rstd * (grad_normed - values * rstd * rstd * projection)
        target = grad_input + row * grad_input_stride + column
        previous = tl.load(target, mask=mask, other=0.0).to(tl.float32)
        tl.store(target, (previous + grad).to(grad_input.dtype.element_ty), mask=mask)
