"""Cross-entropy whose gradient overwrites the logits."""

import torch

from the_block_llm.models.layerwise.kernels.triton_backend import tl, triton, use_triton


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, with_grad: bool) -> torch.Tensor:
    """Return the cross-entropy of each row; ``with_grad`` overwrites ``logits``.

    Args:
        logits: ``(n, vocab_size)``; becomes its own gradient with ``with_grad``.
        targets: ``(n,)``.
        with_grad: Whether to compute the gradient.

    Returns:
        float32, ``(n,)``.
    """
    if use_triton(logits):
        n_rows, vocab_size = logits.shape
        losses = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
        _cross_entropy_kernel[(n_rows,)](
            logits, targets, losses, logits.stride(0), vocab_size, with_grad, 8192, num_warps=16
        )
        return losses
    logits_fp32 = logits.float()
    logsumexp = logits_fp32.logsumexp(dim=-1)
    index = targets.unsqueeze(-1)
    losses = logsumexp - logits_fp32.gather(-1, index).squeeze(-1)
    if with_grad:
        grad = logits_fp32.sub_(logsumexp.unsqueeze(-1)).exp_()
        grad.scatter_add_(-1, index, torch.full_like(index, -1.0, dtype=grad.dtype))
        logits.copy_(grad)
    return losses


if triton is not None:

    @triton.jit
    def _cross_entropy_kernel(
        logits, targets, losses, row_stride, vocab_size,
        with_grad: tl.constexpr, block_size: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        start = logits + row * row_stride
        target = tl.load(targets + row)
        target_logit = tl.load(start + target).to(tl.float32)
        # Online softmax: running maximum and rescaled sum of exponentials.
        maximum = float("-inf")
        total = 0.0
        for first in range(0, vocab_size, block_size):
            column = first + tl.arange(0, block_size)
            values = tl.load(start + column, mask=column < vocab_size, other=float("-inf")).to(
                tl.float32
            )
            new_maximum = tl.maximum(maximum, tl.max(values))
            total = total * tl.exp(maximum - new_maximum) + tl.sum(tl.exp(values - new_maximum))
            maximum = new_maximum
        logsumexp = maximum + tl.log(total)
        tl.store(losses + row, logsumexp - target_logit)
        if with_grad:
            for first in range(0, vocab_size, block_size):
                column = first + tl.arange(0, block_size)
                mask = column < vocab_size
                values = tl.load(start + column, mask=mask, other=float("-inf")).to(tl.float32)
                grad = tl.exp(values - logsumexp) - tl.where(column == target, 1.0, 0.0)
                tl.store(start + column, grad.to(logits.dtype.element_ty), mask=mask)
