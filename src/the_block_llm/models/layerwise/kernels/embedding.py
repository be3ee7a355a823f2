"""Embedding lookup in a table that may be in host memory."""

import torch

from the_block_llm.models.layerwise.kernels.triton_backend import tl, triton, use_triton


def embedding_lookup(table: torch.Tensor, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the rows ``ids`` of ``table`` on the device of ``ids``.

    From pinned host memory a kernel reads only these rows, without synchronizing the host.

    Args:
        table: ``(vocab_size, hidden_size)``, on the device of ``ids`` or in host memory.
        ids: ``(n,)``.
        dtype: Of the result.

    Returns:
        ``(n, hidden_size)``.
    """
    if table.device == ids.device:
        return table[ids].to(dtype)
    if use_triton(ids) and table.is_pinned():
        hidden_size = table.shape[1]
        out = torch.empty(ids.shape[0], hidden_size, dtype=dtype, device=ids.device)
        _gather_rows_kernel[(ids.shape[0],)](table, ids, out, hidden_size, 1024, num_warps=4)
        return out
    return table[ids.to(table.device)].to(ids.device, dtype)


if triton is not None:

    @triton.jit
    def _gather_rows_kernel(table, ids, out, hidden_size, block_size: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        source = tl.load(ids + row).to(tl.int64)
        for first in range(0, hidden_size, block_size):
            column = first + tl.arange(0, block_size)
            mask = column < hidden_size
            values = tl.load(table + source * hidden_size + column, mask=mask)
            tl.store(out + row * hidden_size + column, values.to(out.dtype.element_ty), mask=mask)
