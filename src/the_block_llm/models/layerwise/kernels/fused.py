"""Fused element-wise steps: Triton where it is there, else the same in plain PyTorch.

Maintained libraries have most of these, but with outputs of their own layout; here they
write into strided views (a hidden state with room beside it for LoRA's low-rank columns)
and in place, which is what saves the passes over memory. docs/decisions/0002-*.md says why.
"""

from typing import Final

import bitsandbytes.functional as bnb
import torch
from torch.nn import functional

try:
    from the_block_llm.models.layerwise.kernels import triton_kernels
except ImportError:  # no Triton: a CPU, Windows
    triton_kernels = None  # type: ignore[assignment]

NF4_BLOCK: Final = 64
NESTED_BLOCK: Final = 256


def _fused(tensor: torch.Tensor) -> bool:
    return triton_kernels is not None and tensor.is_cuda


class PackedLinear:
    """The 4-bit weight of one Linear layer, as views into a layer's buffer.

    NF4 in blocks of 64 along the input dimension; the blocks' scales in 8 bits, in blocks of
    256 (Dettmers et al. 2023). The bytes are those of bitsandbytes.
    """

    __slots__ = ("bias", "in_features", "nested_code", "nested_scales", "offset", "out_features",
                 "packed", "scales")  # fmt: skip

    def __init__(self, views: dict[str, torch.Tensor], name: str, shape: tuple[int, int]) -> None:
        self.out_features, self.in_features = shape
        self.packed = views[f"{name}.packed"]
        self.scales = views[f"{name}.scales"]
        self.nested_scales = views[f"{name}.nested_scales"]
        self.nested_code = views[f"{name}.nested_code"]
        self.offset = views[f"{name}.offset"]
        self.bias = views.get(f"{name}.bias")

    def unpack_into(self, out: torch.Tensor) -> None:
        """Write the weight, ``(out_features, in_features)``, into ``out``; rows may be strided."""
        if _fused(out):
            triton_kernels.unpack_nf4(
                out, self.packed, self.scales, self.nested_scales, self.nested_code, self.offset
            )
            return
        out.copy_(self._unpacked(out.dtype))

    def _unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        nested = bnb.QuantState(
            absmax=self.nested_scales, code=self.nested_code, blocksize=NESTED_BLOCK,
            dtype=torch.float32,
        )  # fmt: skip
        state = bnb.QuantState(
            absmax=self.scales,
            shape=torch.Size((self.out_features, self.in_features)),
            code=bnb.get_4bit_type("nf4", device=self.packed.device),
            blocksize=NF4_BLOCK,
            quant_type="nf4",
            dtype=dtype,
            offset=self.offset,
            state2=nested,
        )
        return bnb.dequantize_4bit(self.packed.view(-1, 1), state)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """Write the root-mean-square norm of ``x``, ``(n, hidden)``, into ``out``."""
    if _fused(x):
        triton_kernels.rms_norm(x, weight, eps, out)
        return
    wide = x.float()
    out.copy_(weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype))


def add_rms_norm_backward(
    x: torch.Tensor, weight: torch.Tensor, eps: float, slope: torch.Tensor, into: torch.Tensor
) -> None:
    """Add to ``into`` the gradient of the norm's input, ``slope`` being that of its output."""
    if _fused(x):
        triton_kernels.add_rms_norm_backward(x, weight, eps, slope, into)
        return
    wide = x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    scaled = slope.float() * weight.float()
    along = (scaled * wide).mean(-1, keepdim=True)
    into.add_((inverse * scaled - wide * inverse.pow(3) * along).to(into.dtype))


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, out: torch.Tensor
) -> None:
    """Write the layer norm of ``x``, ``(n, hidden)``, into ``out``."""
    out.copy_(functional.layer_norm(x, (x.shape[-1],), weight, bias, eps))


def add_layer_norm_backward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    slope: torch.Tensor,
    into: torch.Tensor,
) -> None:
    """Add to ``into`` the gradient of the norm's input, ``slope`` being that of its output."""
    shape = [x.shape[-1]]
    _, mean, inverse = torch.native_layer_norm(x, shape, weight, bias, eps)
    gradient, _, _ = torch.ops.aten.native_layer_norm_backward(
        slope.contiguous(), x, shape, mean, inverse, weight, bias, [True, False, False]
    )
    into.add_(gradient)


def rotate_heads(
    heads: torch.Tensor, n_heads: int, cosine: torch.Tensor, sine: torch.Tensor, back: bool = False
) -> None:
    """Turn the first ``n_heads`` heads by their positions, in place (rotary embedding).

    Args:
        heads: ``(n, heads × head_dim)``.
        n_heads: How many of them turn; values come after and stay.
        cosine: ``(n, head_dim / 2)``.
        sine: The same shape.
        back: Turn the other way, as the gradient does.
    """
    half = cosine.shape[1]
    if _fused(heads):
        triton_kernels.rotate_heads(heads, n_heads, cosine, sine, back)
        return
    view = heads[:, : n_heads * 2 * half].unflatten(1, (n_heads, 2, half))
    cosine, sine = cosine.unsqueeze(1), (-sine if back else sine).unsqueeze(1)
    first, second = view[:, :, 0], view[:, :, 1]
    turned = (first * cosine - second * sine).to(heads.dtype)
    second.copy_(second * cosine + first * sine)
    first.copy_(turned)


def swiglu(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """Write ``silu(gate) × up`` into ``out``; ``gate_up`` is ``(n, 2 × intermediate)``."""
    if _fused(gate_up):
        triton_kernels.swiglu(gate_up, out)
        return
    gate, up = gate_up.chunk(2, dim=-1)
    torch.mul(functional.silu(gate), up, out=out)


def swiglu_backward(gate_up: torch.Tensor, slope: torch.Tensor) -> None:
    """Replace ``gate_up`` by its gradient, given the gradient of :func:`swiglu`'s output."""
    if _fused(gate_up):
        triton_kernels.swiglu_backward(gate_up, slope)
        return
    gate, up = gate_up.chunk(2, dim=-1)
    share = torch.sigmoid(gate)
    activated = gate * share
    along_gate = slope * up * (share + activated * (1 - share))
    up.copy_(slope * activated)
    gate.copy_(along_gate)


def gelu(inner: torch.Tensor, out: torch.Tensor) -> None:
    """Write the tanh approximation of GELU into ``out``."""
    out.copy_(functional.gelu(inner, approximate="tanh"))


def gelu_backward(inner: torch.Tensor, slope: torch.Tensor) -> None:
    """Replace ``inner`` by its gradient, given the gradient of :func:`gelu`'s output."""
    inner.copy_(torch.ops.aten.gelu_backward(slope, inner, approximate="tanh"))


def cross_entropy_rows(
    logits: torch.Tensor, targets: torch.Tensor, with_slope: bool
) -> torch.Tensor:
    """Cross-entropy of each row; with ``with_slope`` the logits become their own gradient.

    Args:
        logits: ``(n, vocabulary)``, overwritten.
        targets: ``(n,)``.
        with_slope: Whether the gradient is wanted.

    Returns:
        float32, ``(n,)``.
    """
    if _fused(logits):
        return triton_kernels.cross_entropy_rows(logits, targets, with_slope)
    wide = logits.float()
    log_total = wide.logsumexp(dim=-1)
    index = targets.unsqueeze(-1)
    losses = log_total - wide.gather(-1, index).squeeze(-1)
    if with_slope:
        slope = wide.sub_(log_total.unsqueeze(-1)).exp_()
        slope.scatter_add_(-1, index, torch.full_like(index, -1.0, dtype=slope.dtype))
        logits.copy_(slope)
    return losses


def gather_rows(table: torch.Tensor, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows ``ids`` of ``table`` on the device of ``ids``; the table may lie in host memory.

    From pinned memory a kernel fetches just these rows, and the host waits for nothing.
    """
    if table.device == ids.device:
        return table[ids].to(dtype)
    if _fused(ids) and table.is_pinned():
        out = torch.empty(ids.shape[0], table.shape[1], dtype=dtype, device=ids.device)
        triton_kernels.gather_rows(table, ids, out)
        return out
    return table[ids.to(table.device)].to(ids.device, dtype)


def dropped(x: torch.Tensor, probability: float, seed: int) -> torch.Tensor:
    """``x`` with inverted dropout; the same numbers fall again for the same seed and shape."""
    if _fused(x):
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        triton_kernels.drop(x, out, probability, seed, add=False)
        return out
    return x * _dropout_mask(x, probability, seed)


def add_dropped(into: torch.Tensor, value: torch.Tensor, probability: float, seed: int) -> None:
    """Add ``value`` to ``into`` where :func:`dropped` of the same seed and shape keeps it."""
    if _fused(value):
        triton_kernels.drop(value, into, probability, seed, add=True)
        return
    into.add_(value * _dropout_mask(value, probability, seed))


def _dropout_mask(like: torch.Tensor, probability: float, seed: int) -> torch.Tensor:
    """0 or 1 / (1 - p)."""
    generator = torch.Generator(device=like.device)
    generator.manual_seed(seed)
    mask = torch.empty_like(like, memory_format=torch.contiguous_format)
    kept = 1 - probability
    return mask.bernoulli_(kept, generator=generator).div_(kept)
