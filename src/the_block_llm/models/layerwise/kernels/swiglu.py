"""SwiGLU (Shazeer 2020), forward and backward."""

import torch
from torch.nn import functional

from the_block_llm.models.layerwise.kernels.triton_backend import tl, triton, use_triton


def swiglu(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """Write ``silu(gate) × up`` into ``out``.

    Args:
        gate_up: ``(n, 2 × intermediate_size)``.
        out: ``(n, intermediate_size)``, possibly strided.
    """
    if use_triton(gate_up):
        n_rows, width = out.shape
        _swiglu_kernel[(n_rows, triton.cdiv(width, 1024))](
            gate_up, out, gate_up.stride(0), out.stride(0), width, 1024, num_warps=4
        )
        return
    gate, up = gate_up.chunk(2, dim=-1)
    torch.mul(functional.silu(gate), up, out=out)


def swiglu_backward_(gate_up: torch.Tensor, grad_output: torch.Tensor) -> None:
    """Overwrite ``gate_up`` with its gradient, given that of :func:`swiglu`'s output."""
    if use_triton(gate_up):
        n_rows, width = grad_output.shape
        _swiglu_backward_kernel[(n_rows, triton.cdiv(width, 1024))](
            gate_up, grad_output, gate_up.stride(0), grad_output.stride(0), width, 1024,
            num_warps=4,
        )  # fmt: skip
        return
    gate, up = gate_up.chunk(2, dim=-1)
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    grad_gate = grad_output * up * (sigmoid + silu * (1 - sigmoid))
    up.copy_(grad_output * silu)
    gate.copy_(grad_gate)


if triton is not None:

    @triton.jit
    def _swiglu_kernel(gate_up, out, in_stride, out_stride, width, block_size: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * block_size + tl.arange(0, block_size)
        mask = column < width
        pointer = gate_up + row * in_stride + column
        gate = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(pointer + width, mask=mask, other=0.0).to(tl.float32)
        value = gate * tl.sigmoid(gate) * up
        tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=mask)

    @triton.jit
    def _swiglu_backward_kernel(
        gate_up, grad_output, in_stride, grad_output_stride, width, block_size: tl.constexpr
    ):
        row = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * block_size + tl.arange(0, block_size)
        mask = column < width
        pointer = gate_up + row * in_stride + column
        gate = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(pointer + width, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_output + row * grad_output_stride + column, mask=mask, other=0.0).to(
            tl.float32
        )
        sigmoid = tl.sigmoid(gate)
        silu = gate * sigmoid
        grad_gate = grad * up * (sigmoid + silu * (1 - sigmoid))
        tl.store(pointer, grad_gate.to(gate_up.dtype.element_ty), mask=mask)
        tl.store(pointer + width, (grad * silu).to(gate_up.dtype.element_ty), mask=mask)
