"""Linear layers with NF4 weights (QLoRA, Dettmers et al. 2023), and their dequantization."""

from typing import Final

import bitsandbytes.functional as bnb
import torch

from the_block_llm.models.layerwise.kernels.triton_backend import tl, triton, use_triton

NF4_BLOCK_SIZE: Final = 64
NESTED_BLOCK_SIZE: Final = 256


class NF4Linear:
    """The 4-bit weight of one Linear layer, as views into a layer's buffer.

    NF4 in blocks of 64 along the input dimension, with double quantization: the blocks' absmax
    is stored in 8 bits, in blocks of 256. The bytes are those of bitsandbytes.
    """

    __slots__ = ("absmax", "bias", "in_features", "nested_absmax", "nested_code", "offset",
                 "out_features", "packed")  # fmt: skip

    def __init__(self, tensors: dict[str, torch.Tensor], name: str, shape: tuple[int, int]) -> None:
        self.out_features, self.in_features = shape
        self.packed = tensors[f"{name}.packed"]
        self.absmax = tensors[f"{name}.absmax"]
        self.nested_absmax = tensors[f"{name}.nested_absmax"]
        self.nested_code = tensors[f"{name}.nested_code"]
        self.offset = tensors[f"{name}.offset"]
        self.bias = tensors.get(f"{name}.bias")

    def dequantize_into(self, out: torch.Tensor) -> None:
        """Write the weight into ``out``, ``(out_features, in_features)``; rows may be strided."""
        if use_triton(out):
            n_bytes = self.packed.numel()
            block_size = 1024
            _dequantize_nf4_kernel[(triton.cdiv(n_bytes, block_size),)](
                out, self.packed, self.absmax, self.nested_absmax, self.nested_code, self.offset,
                out.stride(0), n_bytes, out.shape[1], block_size, num_warps=4,
            )  # fmt: skip
            return
        out.copy_(self._dequantized(out.dtype))

    def _dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        nested_state = bnb.QuantState(
            absmax=self.nested_absmax, code=self.nested_code, blocksize=NESTED_BLOCK_SIZE,
            dtype=torch.float32,
        )  # fmt: skip
        state = bnb.QuantState(
            absmax=self.absmax,
            shape=torch.Size((self.out_features, self.in_features)),
            code=bnb.get_4bit_type("nf4", device=self.packed.device),
            blocksize=NF4_BLOCK_SIZE,
            quant_type="nf4",
            dtype=dtype,
            offset=self.offset,
            state2=nested_state,
        )
        return bnb.dequantize_4bit(self.packed.view(-1, 1), state)


if triton is not None:

    @triton.jit
    def _dequantize_nf4_kernel(
        out, packed, absmax, nested_absmax, nested_code, offset,
        out_stride, n_bytes, in_features: tl.constexpr, block_size: tl.constexpr,
    ):  # fmt: skip
        index = tl.program_id(0).to(tl.int64) * block_size + tl.arange(0, block_size)
        mask = index < n_bytes
        code_pair = tl.load(packed + index, mask=mask, other=0).to(tl.int32)
        # 32 bytes share an absmax, 256 of which share a nested one.
        absmax_index = index // 32
        quantized = tl.load(absmax + absmax_index, mask=mask, other=0).to(tl.int32)
        nested = tl.load(nested_absmax + absmax_index // 256, mask=mask, other=0.0)
        scale = tl.load(nested_code + quantized, mask=mask, other=0.0) * nested + tl.load(offset)
        first = (_nf4_value(code_pair >> 4) * scale).to(out.dtype.element_ty)
        second = (_nf4_value(code_pair & 15) * scale).to(out.dtype.element_ty)
        # Interleaved before the store: storing every other element would write each cache line
        # twice.
        element = tl.program_id(0).to(tl.int64) * (2 * block_size) + tl.arange(0, 2 * block_size)
        row = element // in_features
        target = out + row * out_stride + (element - row * in_features)
        tl.store(target, tl.interleave(first, second), mask=element < 2 * n_bytes)

    @triton.jit
    def _nf4_value(code):
        # The sixteen quantiles of the normal distribution (Dettmers et al. 2023, appendix E), as
        # a tree of selects: a lookup table in memory would cost sixteen loads.
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
