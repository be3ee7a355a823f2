"""Causal attention inside segments of a flat row, forward and backward by hand.

On a GPU the flash kernels of PyTorch with variable lengths and grouped heads: no mask, no
repeated keys, memory linear in the tokens; or those of cuDNN. Elsewhere PyTorch's own
attention, one segment at a time, which is the reference as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Final, Literal

import torch
from torch.nn import functional

# PyTorch's flash kernel gives its float32 gradient of the queries 128 more tokens for each segment;
# that is half of what it takes for a token.
_TOKENS_A_SEGMENT: Final = 128 // 2
_ALWAYS_TOGETHER: Final = 16 * 1024
_SHARE_OF_A_RUN: Final = 0.7


def room_of_kernel(n_tokens: int) -> int:
    """How many tokens' memory the flash kernel gets going back over ``n_tokens``, at most.

    Rows of many short segments would take several times that; they go through in runs. Where
    there are few tokens their memory is not what counts, and time is saved with some more.
    """
    return max(n_tokens, min(n_tokens * 3 // 2, _ALWAYS_TOGETHER))


@dataclass(frozen=True)
class Run:
    """Neighbouring segments that go through a kernel together."""

    tokens: slice
    starts: torch.Tensor
    """First tokens of the segments, and the end of the last, from 0 on; int32, on the device."""
    longest: int


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

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All segments in order, as many together as :func:`room_of_kernel` lets."""
        runs = []
        for first, last in _cut_into_runs(self.bounds):
            begin, end = self.bounds[first], self.bounds[last]
            longest = max(b - a for a, b in pairwise(self.bounds[first : last + 1]))
            starts = self.starts[first : last + 1]
            runs.append(Run(slice(begin, end), starts - begin if begin else starts, longest))
        return tuple(runs)


def _cut_into_runs(bounds: Sequence[int]) -> list[tuple[int, int]]:
    """First segments of the runs, and those behind their last ones."""
    n_segments = len(bounds) - 1
    room = room_of_kernel(bounds[-1])
    if n_segments < 2 or bounds[-1] + n_segments * _TOKENS_A_SEGMENT <= room:
        return [(0, n_segments)]
    # The gradients of the runs that are done lie beside, so a run gets less than all the room.
    room = int(room * _SHARE_OF_A_RUN)
    first, runs = 0, []
    for segment in range(1, n_segments):
        n_tokens = bounds[segment + 1] - bounds[first]
        if n_tokens + (segment + 1 - first) * _TOKENS_A_SEGMENT > room:
            runs.append((first, segment))
            first = segment
    return [*runs, (first, n_segments)]


@dataclass(frozen=True)
class AttentionOutput:
    """What the backward pass needs of the forward one."""

    values: torch.Tensor
    """``(n, heads, head_dim)``."""
    kernel: Literal["cudnn", "flash", "plain"]
    saved: tuple[tuple[torch.Tensor, ...], ...]
    """By run, what the kernel's backward pass asks for."""


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
    # cuDNN knows no segments of a single token.
    if longest > 1 and segments.equal and window is None and _cudnn_is_faster(queries.device):
        dense = (_dense(x, segments) for x in (queries, keys, values))
        out, log_sums, _, _, _, _, seed, offset, _ = (
            torch.ops.aten._scaled_dot_product_cudnn_attention(*dense, None, True, 0.0, True)
        )
        return AttentionOutput(
            out.transpose(1, 2).reshape(queries.shape), "cudnn", ((log_sums, seed, offset),)
        )
    whole, saved = None, []
    for run in segments.runs:
        here = run.tokens
        out, log_sums, random_state, unused, _ = torch.ops.aten._flash_attention_forward(
            queries[here], keys[here], values[here], run.starts, run.starts, run.longest,
            run.longest, 0.0, True, False, **_window_options(window),
        )  # fmt: skip
        saved.append((log_sums, random_state, unused))
        if len(segments.runs) > 1:
            if whole is None:
                whole = out.new_empty(queries.shape)
            whole[here] = out
    return AttentionOutput(out if whole is None else whole, "flash", tuple(saved))


def attend_backward(
    slope: torch.Tensor,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    output: AttentionOutput,
    segments: Segments,
    window: int | None,
) -> torch.Tensor:
    """Gradients of queries, keys and values side by side, given that of the output.

    Returns:
        ``(n, heads + 2 * key-value heads, head_dim)``.
    """
    longest = segments.longest
    if window is not None and window >= longest:
        window = None
    if output.kernel == "flash":
        return _flash_backward(slope, queries, keys, values, output, segments, window)
    if output.kernel == "cudnn":
        ((log_sums, seed, offset),) = output.saved
        dense = [_dense(x, segments) for x in (slope, queries, keys, values, output.values)]
        gradients = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            *dense, log_sums, seed, offset, None, None, None, longest, longest, 0.0, True
        )
        return torch.cat([g.transpose(1, 2).flatten(0, 1) for g in gradients], dim=1)
    collected = []
    for part in _slices(segments):
        with torch.enable_grad():
            inputs = [x[part].detach().requires_grad_() for x in (queries, keys, values)]
            out = _plain(inputs[0], inputs[1], inputs[2], window)
            collected.append(torch.cat(torch.autograd.grad(out, inputs, slope[part]), dim=1))
    return torch.cat(collected)


def _flash_backward(
    slope: torch.Tensor,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    output: AttentionOutput,
    segments: Segments,
    window: int | None,
) -> torch.Tensor:
    whole: torch.Tensor | None = None
    runs = zip(segments.runs, output.saved, strict=True)
    # The longest first: what collects the gradients is not there yet, and the kernel has room.
    for run, (log_sums, random_state, unused) in sorted(
        runs, key=lambda pair: pair[0].tokens.start - pair[0].tokens.stop
    ):
        here = run.tokens
        gradients = torch.ops.aten._flash_attention_backward(
            slope[here], queries[here], keys[here], values[here], output.values[here], log_sums,
            run.starts, run.starts, run.longest, run.longest, 0.0, True, random_state, unused,
            **_window_options(window),
        )  # fmt: skip
        joint = torch.cat(gradients, dim=1)
        del gradients
        if len(segments.runs) == 1:
            return joint
        if whole is None:
            whole = joint.new_empty(slope.shape[0], *joint.shape[1:])
        whole[here] = joint
    assert whole is not None  # noqa: S101  # a batch has tokens
    return whole


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
