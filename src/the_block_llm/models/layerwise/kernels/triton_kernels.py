"""The GPU versions of :mod:`the_block_llm.models.layerwise.kernels.fused`, in Triton.

Arithmetic is float32, whatever the storage. Offsets are 64 bits wide where a row times its
stride can pass two billion: 131,072 tokens of 28,672 numbers do.
"""

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def _unpack_nf4(
    out, packed, scales, nested_scales, nested_code, offset,
    row_stride, n_bytes, in_features: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < n_bytes
    pair = tl.load(packed + index, mask=inside, other=0).to(tl.int32)
    # 32 bytes share a scale, 256 scales share a nested one.
    scale_index = index // 32
    quantised = tl.load(scales + scale_index, mask=inside, other=0).to(tl.int32)
    nested = tl.load(nested_scales + scale_index // 256, mask=inside, other=0.0)
    scale = tl.load(nested_code + quantised, mask=inside, other=0.0) * nested + tl.load(offset)
    first = (_nf4(pair >> 4) * scale).to(out.dtype.element_ty)
    second = (_nf4(pair & 15) * scale).to(out.dtype.element_ty)
    # Neighbours side by side before they are stored: every other element at a time would write
    # each line of memory twice.
    element = tl.program_id(0).to(tl.int64) * (2 * block) + tl.arange(0, 2 * block)
    row = element // in_features
    target = out + row * row_stride + (element - row * in_features)
    tl.store(target, tl.interleave(first, second), mask=element < 2 * n_bytes)


@triton.jit
def _nf4(code):
    # The sixteen quantiles of the normal distribution (Dettmers et al. 2023, appendix E), as a
    # tree of selections: a table in memory would be sixteen loads that miss registers.
    b0 = (code & 1) != 0
    b1 = (code & 2) != 0
    b2 = (code & 4) != 0
    b3 = (code & 8) != 0
    v0 = tl.where(b0, -0.6961928009986877, -1.0)
    v1 = tl.where(b0, -0.39491748809814453, -0.5250730514526367)
    v2 = tl.where(b0, -0.18477343022823334, -0.28444138169288635)
    v3 = tl.where(b0, 0.0, -0.09105003625154495)
    v4 = tl.where(b0, 0.16093020141124725, 0.07958029955625534)
    v5 = tl.where(b0, 0.33791524171829224, 0.24611230194568634)
    v6 = tl.where(b0, 0.5626170039176941, 0.44070982933044434)
    v7 = tl.where(b0, 1.0, 0.7229568362236023)
    w0 = tl.where(b1, v1, v0)
    w1 = tl.where(b1, v3, v2)
    w2 = tl.where(b1, v5, v4)
    w3 = tl.where(b1, v7, v6)
    return tl.where(b3, tl.where(b2, w3, w2), tl.where(b2, w1, w0))


def unpack_nf4(
    out: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    nested_scales: torch.Tensor,
    nested_code: torch.Tensor,
    offset: torch.Tensor,
) -> None:
    """See :meth:`kernels.PackedLinear.unpack_into`."""
    n_bytes = packed.numel()
    block = 1024
    _unpack_nf4[(triton.cdiv(n_bytes, block),)](
        out, packed, scales, nested_scales, nested_code, offset,
        out.stride(0), n_bytes, out.shape[1], block, num_warps=4,
    )  # fmt: skip


@triton.jit
def _rms_norm(x, weight, out, x_stride, out_stride, width, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    values = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(values * values) / width + eps)
    # Rounded before the weight, as transformers does.
    normed = (values * inverse).to(x.dtype.element_ty).to(tl.float32)
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, (normed * factor).to(out.dtype.element_ty), inside)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """See :func:`kernels.rms_norm`."""
    n_rows, width = x.shape
    _rms_norm[(n_rows,)](
        x, weight, out, x.stride(0), out.stride(0), width, eps, triton.next_power_of_2(width),
        num_warps=8,
    )  # fmt: skip


@triton.jit
def _rms_norm_backward(
    x, weight, slope, into, x_stride, slope_stride, into_stride, width, eps, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    values = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(values * values) / width + eps)
    scaled = tl.load(slope + row * slope_stride + column, mask=inside, other=0.0).to(tl.float32)
    scaled *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    along = tl.sum(scaled * values) / width
    gradient = inverse * (scaled - values * inverse * inverse * along)
    target = into + row * into_stride + column
    before = tl.load(target, mask=inside, other=0.0).to(tl.float32)
    tl.store(target, (before + gradient).to(into.dtype.element_ty), mask=inside)


def add_rms_norm_backward(
    x: torch.Tensor, weight: torch.Tensor, eps: float, slope: torch.Tensor, into: torch.Tensor
) -> None:
    """See :func:`kernels.add_rms_norm_backward`."""
    n_rows, width = x.shape
    _rms_norm_backward[(n_rows,)](
        x, weight, slope, into, x.stride(0), slope.stride(0), into.stride(0), width, eps,
        triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip


@triton.jit
def _rotate_heads(heads, cosine, sine, row_stride, n_heads, half: tl.constexpr, sign,
                  block_heads: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, block_heads)[:, None]
    column = tl.arange(0, half)[None, :]
    inside = head < n_heads
    cosines = tl.load(cosine + row * half + column).to(tl.float32)
    sines = tl.load(sine + row * half + column).to(tl.float32) * sign
    place = heads + row * row_stride + head * (2 * half) + column
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, (first * cosines - second * sines).to(heads.dtype.element_ty), mask=inside)
    tl.store(
        place + half, (second * cosines + first * sines).to(heads.dtype.element_ty), mask=inside
    )


def rotate_heads(
    heads: torch.Tensor, n_heads: int, cosine: torch.Tensor, sine: torch.Tensor, back: bool
) -> None:
    """See :func:`kernels.rotate_heads`."""
    _rotate_heads[(heads.shape[0],)](
        heads, cosine, sine, heads.stride(0), n_heads, cosine.shape[1], -1.0 if back else 1.0,
        triton.next_power_of_2(n_heads), num_warps=4,
    )  # fmt: skip


@triton.jit
def _swiglu(gate_up, out, in_stride, out_stride, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    gate = tl.load(gate_up + row * in_stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * in_stride + width + column, mask=inside, other=0.0).to(tl.float32)
    value = gate * tl.sigmoid(gate) * up
    tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(gate_up, slope, in_stride, slope_stride, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    place = gate_up + row * in_stride + column
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(place + width, mask=inside, other=0.0).to(tl.float32)
    incoming = tl.load(slope + row * slope_stride + column, mask=inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    activated = gate * share
    along_gate = incoming * up * (share + activated * (1 - share))
    tl.store(place, along_gate.to(gate_up.dtype.element_ty), mask=inside)
    tl.store(place + width, (incoming * activated).to(gate_up.dtype.element_ty), mask=inside)


def swiglu(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """See :func:`kernels.swiglu`."""
    n_rows, width = out.shape
    _swiglu[(n_rows, triton.cdiv(width, 1024))](
        gate_up, out, gate_up.stride(0), out.stride(0), width, 1024, num_warps=4
    )


def swiglu_backward(gate_up: torch.Tensor, slope: torch.Tensor) -> None:
    """See :func:`kernels.swiglu_backward`."""
    n_rows, width = slope.shape
    _swiglu_backward[(n_rows, triton.cdiv(width, 1024))](
        gate_up, slope, gate_up.stride(0), slope.stride(0), width, 1024, num_warps=4
    )


@triton.jit
def _cross_entropy_rows(
    logits, targets, losses, row_stride, width, with_slope: tl.constexpr, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * row_stride
    target = tl.load(targets + row)
    at_target = tl.load(start + target).to(tl.float32)
    largest = float("-inf")
    total = 0.0
    for first in range(0, width, block):
        column = first + tl.arange(0, block)
        values = tl.load(start + column, mask=column < width, other=float("-inf")).to(tl.float32)
        here = tl.maximum(largest, tl.max(values))
        total = total * tl.exp(largest - here) + tl.sum(tl.exp(values - here))
        largest = here
    log_total = largest + tl.log(total)
    tl.store(losses + row, log_total - at_target)
    if with_slope:
        for first in range(0, width, block):
            column = first + tl.arange(0, block)
            inside = column < width
            values = tl.load(start + column, mask=inside, other=float("-inf")).to(tl.float32)
            slope = tl.exp(values - log_total) - tl.where(column == target, 1.0, 0.0)
            tl.store(start + column, slope.to(logits.dtype.element_ty), mask=inside)


def cross_entropy_rows(
    logits: torch.Tensor, targets: torch.Tensor, with_slope: bool
) -> torch.Tensor:
    """See :func:`kernels.cross_entropy_rows`."""
    n_rows, width = logits.shape
    losses = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
    _cross_entropy_rows[(n_rows,)](
        logits, targets, losses, logits.stride(0), width, with_slope, 8192, num_warps=16
    )
    return losses


@triton.jit
def _gather_rows(table, ids, out, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    source = tl.load(ids + row).to(tl.int64)
    for first in range(0, width, block):
        column = first + tl.arange(0, block)
        inside = column < width
        values = tl.load(table + source * width + column, mask=inside)
        tl.store(out + row * width + column, values.to(out.dtype.element_ty), mask=inside)


def gather_rows(table: torch.Tensor, ids: torch.Tensor, out: torch.Tensor) -> None:
    """See :func:`kernels.gather_rows`; ``table`` is pinned and read over the bus."""
    width: Any = table.shape[1]
    _gather_rows[(ids.shape[0],)](table, ids, out, width, 1024, num_warps=4)


@triton.jit(do_not_specialize=["seed"])
def _drop(x, out, x_stride, out_stride, width, least, scale, seed,
          add: tl.constexpr, block: tl.constexpr):  # fmt: skip
    row = tl.program_id(0)
    part = tl.program_id(1)
    column = tl.arange(0, block)
    # 128 random bits a counter are eight numbers of 16 bits, for eight runs of columns: whether
    # one falls needs no more, and Philox (Salmon et al. 2011) costs more than the memory does.
    counter = (row * tl.num_programs(1) + part) * block + column
    w0, w1, w2, w3 = tl.randint4x(seed, counter)
    for run in tl.static_range(8):
        if run < 2:
            word = w0
        elif run < 4:
            word = w1
        elif run < 6:
            word = w2
        else:
            word = w3
        bits = (word >> (16 * (run % 2))) & 0xFFFF
        place = (part * 8 + run) * block + column
        inside = place < width
        values = tl.load(x + row.to(tl.int64) * x_stride + place, mask=inside, other=0.0)
        values = tl.where(bits >= least, values.to(tl.float32) * scale, 0.0)
        target = out + row.to(tl.int64) * out_stride + place
        if add:
            values += tl.load(target, mask=inside, other=0.0).to(tl.float32)
        tl.store(target, values.to(out.dtype.element_ty), mask=inside)


def drop(x: torch.Tensor, out: torch.Tensor, probability: float, seed: int, add: bool) -> None:
    """See :func:`kernels.dropped` and :func:`kernels.add_dropped`.

    The probability is rounded to 1/65,536.
    """
    n_rows, width = x.shape
    block = min(256, max(64, triton.next_power_of_2(triton.cdiv(width, 8))))
    _drop[(n_rows, triton.cdiv(width, 8 * block))](
        x, out, x.stride(0), out.stride(0), width, round(probability * 65_536),
        1 / (1 - probability), seed, add, block,
        num_warps=block // 64,
    )  # fmt: skip
