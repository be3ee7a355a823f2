"""Inverted dropout whose mask is derived from a seed and never stored."""

import torch

from the_block_llm.models.layerwise.kernels.triton_backend import tl, triton, use_triton


def dropout(x: torch.Tensor, probability: float, seed: int) -> torch.Tensor:
    """Return ``x`` with inverted dropout; the mask is a function of seed and shape.

    The Triton kernel rounds the probability to a multiple of 1/65,536.
    """
    if use_triton(x):
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        _launch_dropout(x, out, probability, seed, accumulate=False)
        return out
    return x * _dropout_mask(x, probability, seed)


def dropout_backward(
    grad_output: torch.Tensor, grad_input: torch.Tensor, probability: float, seed: int
) -> None:
    """Add the gradient of :func:`dropout`'s ``x`` to ``grad_input``; same seed and shape."""
    if use_triton(grad_output):
        _launch_dropout(grad_output, grad_input, probability, seed, accumulate=True)
        return
    grad_input.add_(grad_output * _dropout_mask(grad_output, probability, seed))


def _dropout_mask(like: torch.Tensor, probability: float, seed: int) -> torch.Tensor:
    """Return a mask of 0 and ``1 / (1 - probability)``."""
    generator = torch.Generator(device=like.device)
    generator.manual_seed(seed)
    mask = torch.empty_like(like, memory_format=torch.contiguous_format)
    keep_probability = 1 - probability
    return mask.bernoulli_(keep_probability, generator=generator).div_(keep_probability)


def _launch_dropout(
    x: torch.Tensor, out: torch.Tensor, probability: float, seed: int, accumulate: bool
) -> None:
    n_rows, width = x.shape
    block_size = min(256, max(64, triton.next_power_of_2(triton.cdiv(width, 8))))
    _dropout_kernel[(n_rows, triton.cdiv(width, 8 * block_size))](
        x, out, x.stride(0), out.stride(0), width, round(probability * 65_536),
        1 / (1 - probability), seed, accumulate, block_size,
        num_warps=block_size // 64,
    )  # fmt: skip


if triton is not None:

    @triton.jit(do_not_specialize=["seed"])
    def _dropout_kernel(
        x, out, x_stride, out_stride, width, threshold, scale, seed,
        accumulate: tl.constexpr, block_size: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0)
        block = tl.program_id(1)
        lane = tl.arange(0, block_size)
        # The 128 random bits of a counter are used as eight 16-bit numbers, for eight groups of
        # columns: a keep decision needs no more, and Philox (Salmon et al. 2011) costs more than
        # the memory traffic.
        counter = (row * tl.num_programs(1) + block) * block_size + lane
        w0, w1, w2, w3 = tl.randint4x(seed, counter)
        for group in tl.static_range(8):
            if group < 2:
                word = w0
            elif group < 4:
                word = w1
            elif group < 6:
                word = w2
            else:
                word = w3
            bits = (word >> (16 * (group % 2))) & 0xFFFF
            column = (block * 8 + group) * block_size + lane
            mask = column < width
            values = tl.load(x + row.to(tl.int64) * x_stride + column, mask=mask, other=0.0)
            values = tl.where(bits >= threshold, values.to(tl.float32) * scale, 0.0)
            target = out + row.to(tl.int64) * out_stride + column
            if accumulate:
                values += tl.load(target, mask=mask, other=0.0).to(tl.float32)
            tl.store(target, values.to(out.dtype.element_ty), mask=mask)
