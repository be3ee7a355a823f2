"""Causal attention within the segments of a flat batch, forward and backward.

On a GPU, PyTorch's variable-length flash attention kernels with grouped-query heads (no mask, no
repeated keys, memory linear in the tokens), or cuDNN's. Elsewhere PyTorch's
``scaled_dot_product_attention``, one segment at a time, which is also the reference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Final, Literal

import torch
from torch.nn import functional

# PyTorch's flash backward pads its float32 query gradient by 128 tokens per segment, which is
# half of the memory that it uses per token.
_PADDING_TOKENS_PER_SEGMENT: Final = 128 // 2
_MIN_WORKSPACE_TOKENS: Final = 16 * 1024
_CHUNK_FRACTION: Final = 0.7


def flash_workspace_tokens(n_tokens: int) -> int:
    """Return the workspace limit of the flash backward for ``n_tokens``, in tokens.

    Many short segments would need several times as much, so they are processed in chunks. Small
    batches may use more than their own size: their memory is negligible, and fewer chunks are
    faster.
    """
    return max(n_tokens, min(n_tokens * 3 // 2, _MIN_WORKSPACE_TOKENS))


@dataclass(frozen=True)
class SegmentChunk:
    """Consecutive segments that one kernel call processes."""

    tokens: slice
    cu_seqlens: torch.Tensor
    """Cumulative segment lengths from 0, int32, on the device."""
    max_seqlen: int


@dataclass(frozen=True)
class Segments:
    """The segment boundaries of a flat batch."""

    bounds: tuple[int, ...]
    """Cumulative segment lengths, from 0 to the number of tokens."""
    cu_seqlens: torch.Tensor
    """The same as int32 on the device."""

    @classmethod
    def from_lengths(cls, lengths: list[int], device: torch.device) -> "Segments":
        """Make consecutive segments of the given lengths; zeros are skipped."""
        bounds = [0]
        for length in lengths:
            if length:
                bounds.append(bounds[-1] + length)
        cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
        if device.type == "cuda":
            cu_seqlens = cu_seqlens.pin_memory().to(device, non_blocking=True)
        return cls(tuple(bounds), cu_seqlens)

    @property
    def is_uniform(self) -> bool:
        """Whether all segments have the same length."""
        return len({end - start for start, end in pairwise(self.bounds)}) == 1

    @property
    def max_seqlen(self) -> int:
        """Tokens of the longest segment."""
        return max((end - start for start, end in pairwise(self.bounds)), default=0)

    @cached_property
    def chunks(self) -> tuple[SegmentChunk, ...]:
        """The segments in order, in chunks that fit :func:`flash_workspace_tokens`."""
        chunks = []
        for first, last in _chunk_segments(self.bounds):
            start, end = self.bounds[first], self.bounds[last]
            max_seqlen = max(b - a for a, b in pairwise(self.bounds[first : last + 1]))
            cu_seqlens = self.cu_seqlens[first : last + 1]
            chunks.append(
                SegmentChunk(
                    slice(start, end), cu_seqlens - start if start else cu_seqlens, max_seqlen
                )
            )
        return tuple(chunks)


def _chunk_segments(bounds: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first segment of each chunk, and the one after its last."""
    n_segments = len(bounds) - 1
    limit = flash_workspace_tokens(bounds[-1])
    if n_segments < 2 or bounds[-1] + n_segments * _PADDING_TOKENS_PER_SEGMENT <= limit:
        return [(0, n_segments)]
    # The gradients of finished chunks take memory as well, so a chunk gets only part of the limit.
    limit = int(limit * _CHUNK_FRACTION)
    first, chunks = 0, []
    for segment in range(1, n_segments):
        n_tokens = bounds[segment + 1] - bounds[first]
        if n_tokens + (segment + 1 - first) * _PADDING_TOKENS_PER_SEGMENT > limit:
            chunks.append((first, segment))
            first = segment
    return [*chunks, (first, n_segments)]


@dataclass(frozen=True)
class AttentionOutput:
    """The output of attention, and what its backward pass needs."""

    output: torch.Tensor
    """``(n, heads, head_dim)``."""
    kernel: Literal["cudnn", "flash", "sdpa"]
    saved: tuple[tuple[torch.Tensor, ...], ...]
    """Per chunk, the tensors that the kernel's backward pass takes."""


def varlen_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    segments: Segments,
    window: int | None,
) -> AttentionOutput:
    """Compute causal attention within each segment.

    Args:
        queries: ``(n, heads, head_dim)``; any stride but the last.
        keys: ``(n, key-value heads, head_dim)``.
        values: ``(n, key-value heads, head_dim)``.
        segments: Boundaries of the segments in the ``n`` tokens.
        window: Sliding window, in tokens and including the token itself; None for no window.
    """
    max_seqlen = segments.max_seqlen
    if window is not None and window >= max_seqlen:
        window = None
    if not (queries.is_cuda and queries.dtype in (torch.bfloat16, torch.float16)):
        outputs = [
            _sdpa(queries[tokens], keys[tokens], values[tokens], window)
            for tokens in _segment_slices(segments)
        ]
        return AttentionOutput(torch.cat(outputs), "sdpa", ())
    # cuDNN does not support segments of a single token.
    if max_seqlen > 1 and segments.is_uniform and window is None and _prefers_cudnn(queries.device):
        dense = (_as_dense(x, segments) for x in (queries, keys, values))
        out, logsumexp, _, _, _, _, seed, offset, _ = (
            torch.ops.aten._scaled_dot_product_cudnn_attention(*dense, None, True, 0.0, True)
        )
        return AttentionOutput(
            out.transpose(1, 2).reshape(queries.shape), "cudnn", ((logsumexp, seed, offset),)
        )
    output, saved = None, []
    for chunk in segments.chunks:
        tokens = chunk.tokens
        out, logsumexp, rng_state, unused, _ = torch.ops.aten._flash_attention_forward(
            queries[tokens], keys[tokens], values[tokens], chunk.cu_seqlens, chunk.cu_seqlens,
            chunk.max_seqlen, chunk.max_seqlen, 0.0, True, False, **_window_options(window),
        )  # fmt: skip
        saved.append((logsumexp, rng_state, unused))
        if len(segments.chunks) > 1:
            if output is None:
                output = out.new_empty(queries.shape)
            output[tokens] = out
    return AttentionOutput(out if output is None else output, "flash", tuple(saved))


def varlen_attention_backward(
    grad_output: torch.Tensor,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attention: AttentionOutput,
    segments: Segments,
    window: int | None,
) -> torch.Tensor:
    """Return the gradients of queries, keys and values, concatenated along the heads.

    Returns:
        ``(n, heads + 2 * key-value heads, head_dim)``.
    """
    max_seqlen = segments.max_seqlen
    if window is not None and window >= max_seqlen:
        window = None
    if attention.kernel == "flash":
        return _flash_backward(grad_output, queries, keys, values, attention, segments, window)
    if attention.kernel == "cudnn":
        ((logsumexp, seed, offset),) = attention.saved
        dense = [
            _as_dense(x, segments) for x in (grad_output, queries, keys, values, attention.output)
        ]
        grads = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            *dense, logsumexp, seed, offset, None, None, None, max_seqlen, max_seqlen, 0.0, True
        )
        return torch.cat([grad.transpose(1, 2).flatten(0, 1) for grad in grads], dim=1)
    segment_grads = []
    for tokens in _segment_slices(segments):
        with torch.enable_grad():
            inputs = [x[tokens].detach().requires_grad_() for x in (queries, keys, values)]
            out = _sdpa(inputs[0], inputs[1], inputs[2], window)
            grads = torch.autograd.grad(out, inputs, grad_output[tokens])
            segment_grads.append(torch.cat(grads, dim=1))
    return torch.cat(segment_grads)


def _flash_backward(
    grad_output: torch.Tensor,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attention: AttentionOutput,
    segments: Segments,
    window: int | None,
) -> torch.Tensor:
    grad_qkv: torch.Tensor | None = None
    chunks = zip(segments.chunks, attention.saved, strict=True)
    # The longest chunk first, while the buffer of all gradients is not allocated yet.
    for chunk, (logsumexp, rng_state, unused) in sorted(
        chunks, key=lambda pair: pair[0].tokens.start - pair[0].tokens.stop
    ):
        tokens = chunk.tokens
        grads = torch.ops.aten._flash_attention_backward(
            grad_output[tokens], queries[tokens], keys[tokens], values[tokens],
            attention.output[tokens], logsumexp, chunk.cu_seqlens, chunk.cu_seqlens,
            chunk.max_seqlen, chunk.max_seqlen, 0.0, True, rng_state, unused,
            **_window_options(window),
        )  # fmt: skip
        chunk_grad = torch.cat(grads, dim=1)
        del grads
        if len(segments.chunks) == 1:
            return chunk_grad
        if grad_qkv is None:
            grad_qkv = chunk_grad.new_empty(grad_output.shape[0], *chunk_grad.shape[1:])
        grad_qkv[tokens] = chunk_grad
    assert grad_qkv is not None  # noqa: S101  # a batch has tokens
    return grad_qkv


def _as_dense(heads: torch.Tensor, segments: Segments) -> torch.Tensor:
    """View ``(n, heads, head_dim)`` as ``(segments, heads, length, head_dim)``."""
    length = segments.max_seqlen
    shape = (heads.shape[0] // length, length, heads.shape[1], heads.shape[2])
    strides = (heads.stride(0) * length, heads.stride(0), heads.stride(1), heads.stride(2))
    return heads.as_strided(shape, strides, heads.storage_offset()).transpose(1, 2)


@cache
def _prefers_cudnn(device: torch.device) -> bool:
    """Return whether to use cuDNN for segments of one length.

    On Hopper it takes little over half the time of PyTorch's flash kernels (measured). It builds
    a new execution plan for every length, so it is used for uniform segments only: long
    documents whose chunks fill their rows.
    """
    return (
        torch.cuda.get_device_capability(device) == (9, 0) and torch.backends.cudnn.is_available()
    )


def _window_options(window: int | None) -> dict[str, int]:
    return {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}


def _segment_slices(segments: Segments) -> Iterator[slice]:
    return (slice(start, end) for start, end in pairwise(segments.bounds))


def _sdpa(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None
) -> torch.Tensor:
    mask = None
    n_tokens = queries.shape[0]
    if window is not None and n_tokens > window:
        index = torch.arange(n_tokens, device=queries.device)
        distance = index[:, None] - index[None, :]
        mask = (distance >= 0) & (distance < window)
    out = functional.scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        keys.transpose(0, 1).unsqueeze(0),
        values.transpose(0, 1).unsqueeze(0),
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=True,
    )
    return out.squeeze(0).transpose(0, 1)
