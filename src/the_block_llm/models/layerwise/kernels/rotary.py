"""Rotary position embeddings (RoPE, Su et al. 2021), in place."""

import torch

from the_block_llm.models.layerwise.kernels.triton_backend import tl, triton, use_triton


def apply_rotary_(
    heads: torch.Tensor,
    n_rotated_heads: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    inverse: bool = False,
) -> None:
    """Rotate the first ``n_rotated_heads`` heads by their positions, in place.

    Args:
        heads: ``(n, heads × head_dim)``.
        n_rotated_heads: Query and key heads; the value heads after them are not rotated.
        cos: ``(n, head_dim / 2)``.
        sin: ``(n, head_dim / 2)``.
        inverse: Rotate by the negative angle, as the backward pass does.
    """
    half_dim = cos.shape[1]
    if use_triton(heads):
        _rotary_kernel[(heads.shape[0],)](
            heads, cos, sin, heads.stride(0), n_rotated_heads, half_dim,
            -1.0 if inverse else 1.0, triton.next_power_of_2(n_rotated_heads), num_warps=4,
        )  # fmt: skip
        return
    halves = heads[:, : n_rotated_heads * 2 * half_dim].unflatten(1, (n_rotated_heads, 2, half_dim))
    cos, sin = cos.unsqueeze(1), (-sin if inverse else sin).unsqueeze(1)
    first, second = halves[:, :, 0], halves[:, :, 1]
    rotated_first = (first * cos - second * sin).to(heads.dtype)
    second.copy_(second * cos + first * sin)
    first.copy_(rotated_first)


if triton is not None:

    @triton.jit
    def _rotary_kernel(
        heads, cos, sin, row_stride, n_rotated_heads, half_dim: tl.constexpr, sign,
        block_heads: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        head = tl.arange(0, block_heads)[:, None]
        column = tl.arange(0, half_dim)[None, :]
        mask = head < n_rotated_heads
        cosines = tl.load(cos + row * half_dim + column).to(tl.float32)
        sines = tl.load(sin + row * half_dim + column).to(tl.float32) * sign
        pointer = heads + row * row_stride + head * (2 * half_dim) + column
        first = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(pointer + half_dim, mask=mask, other=0.0).to(tl.float32)
        tl.store(pointer, (first * cosines - second * sines).to(heads.dtype.element_ty), mask=mask)
        tl.store(
            pointer + half_dim,
            (second * cosines + first * sines).to(heads.dtype.element_ty),
            mask=mask,
        )
