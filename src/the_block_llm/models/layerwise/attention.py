"""Causal attention inside segments of a flat row, forward and backward by hand.

On a GPU the flash kernels of PyTorch with variable lengths and grouped heads: no mask, no
repeated keys, memory linear in the tokens; or those of cuDNN. Elsewhere PyTorch's own
attention, one segment at a time, which is the reference as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Segments:
    """Where the segments of a flat batch begin and end."""

    bounds: tuple[int, ...]
    """First tokens of the segments, and the end of the last."""
    starts: torch.Tensor
    """The same as int32 on the device."""

    @classmethod
    def of_lengths(cls, lengths: list[int], device: torch.device) -> "Segments":
        """Segments of the given lengths, one after the other."""
        bounds = [0]
        for length in lengths:
            if length:
                bounds.append(bounds[-1] + length)
        starts = torch.tensor(bounds, dtype=torch.int32)
        if device.type == "cuda":
            starts = starts.pin_memory().to(device, non_blocking=True)
        return cls(tuple(bounds), starts)

    @property
    def equal(self) -> bool:
        """Whether all segments are of one length."""
        return len({end - start for start, end in pairwise(self.bounds)}) == 1

    @property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return max((end - start for start, end in pairwise(self.bounds)), default=0)


@dataclass(frozen=True)
class AttentionOutput:
    """What the backward pass needs of the forward one."""

    values: torch.Tensor
    """``(n, heads, head_dim)``."""
    kernel: Literal["cudnn", "flash", "plain"]
    saved: tuple[torch.Tensor, ...]
    """What the kernel's backward pass asks for."""


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    segments: Segments,
    window: int | None,
) -> AttentionOutput:
    """Attention of every token to those before it in its segment.

    Args:
        queries: ``(n, heads, head_dim)``; any stride but the last.
        keys: ``(n, key-value heads, head_dim)``.
        values: Likewise.
        segments: Of the n tokens.
        window: A token sees this many, itself included; none: all.
    """
    longest = segments.longest
    if window is not None and window >= longest:
        window = None
    if not (queries.is_cuda and queries.dtype in (torch.bfloat16, torch.float16)):
        parts = [
            _plain(queries[part], keys[part], values[part], window) for part in _slices(segments)
        ]
        return AttentionOutput(torch.cat(parts), "plain", ())
    if segments.equal and window is None and _cudnn_is_faster(queries.device):
        dense = (_dense(x, segments) for x in (queries, keys, values))
        out, log_sums, _, _, _, _, seed, offset, _ = (
            torch.ops.aten._scaled_dot_product_cudnn_attention(*dense, None, True, 0.0, True)
        )
        return AttentionOutput(
            out.transpose(1, 2).reshape(queries.shape), "cudnn", (log_sums, seed, offset)
        )
    out, log_sums, random_state, unused, _ = torch.ops.aten._flash_attention_forward(
        queries, keys, values, segments.starts, segments.starts, longest, longest,
        0.0, True, False, **_window_options(window),
    )  # fmt: skip
    return AttentionOutput(out, "flash", (log_sums, random_state, unused))


def attend_backward(
    slope: torch.Tensor,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    output: AttentionOutput,
    segments: Segments,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of queries, keys and values, given that of the output."""
    longest = segments.longest
    if window is not None and window >= longest:
        window = None
    if output.kernel == "flash":
        log_sums, random_state, unused = output.saved
        flash: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = (
            torch.ops.aten._flash_attention_backward(
                slope, queries, keys, values, output.values, log_sums, segments.starts,
                segments.starts, longest, longest, 0.0, True, random_state, unused,
                **_window_options(window),
            )
        )  # fmt: skip
        return flash
    if output.kernel == "cudnn":
        log_sums, seed, offset = output.saved
        dense = [_dense(x, segments) for x in (slope, queries, keys, values, output.values)]
        gradients = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            *dense, log_sums, seed, offset, None, None, None, longest, longest, 0.0, True
        )
        first, second, third = (
            gradient.transpose(1, 2).reshape(like.shape)
            for gradient, like in zip(gradients, (queries, keys, values), strict=True)
        )
        return first, second, third
    collected: list[tuple[torch.Tensor, ...]] = []
    for part in _slices(segments):
        with torch.enable_grad():
            inputs = [x[part].detach().requires_grad_() for x in (queries, keys, values)]
            out = _plain(inputs[0], inputs[1], inputs[2], window)
            collected.append(torch.autograd.grad(out, inputs, slope[part]))
    first, second, third = (torch.cat(parts) for parts in zip(*collected, strict=True))
    return first, second, third


def _dense(heads: torch.Tensor, segments: Segments) -> torch.Tensor:
    """``(n, heads, head_dim)`` as ``(segments, heads, length, head_dim)``, without a copy."""
    length = segments.longest
    shape = (heads.shape[0] // length, length, heads.shape[1], heads.shape[2])
    strides = (heads.stride(0) * length, heads.stride(0), heads.stride(1), heads.stride(2))
    return heads.as_strided(shape, strides, heads.storage_offset()).transpose(1, 2)


@cache
def _cudnn_is_faster(device: torch.device) -> bool:
    """On Hopper cuDNN takes little over half the time of PyTorch's flash kernels (measured).

    It plans anew for every length, so it serves segments of one length only: long documents,
    whose pieces fill their rows.
    """
    return (
        torch.cuda.get_device_capability(device) == (9, 0) and torch.backends.cudnn.is_available()
    )


def _window_options(window: int | None) -> dict[str, int]:
    return {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}


def _slices(segments: Segments) -> Iterator[slice]:
    return (slice(start, end) for start, end in pairwise(segments.bounds))


def _plain(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None
) -> torch.Tensor:
    mask = None
    n_tokens = queries.shape[0]
    if window is not None and n_tokens > window:
        index = torch.arange(n_tokens, device=queries.device)
        behind = index[:, None] - index[None, :]
        mask = (behind >= 0) & (behind < window)
    out = functional.scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        keys.transpose(0, 1).unsqueeze(0),
        values.transpose(0, 1).unsqueeze(0),
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=True,
    )
    return out.squeeze(0).transpose(0, 1)
