"""Keeping the quantised layers of a model in the layout that has a gradient."""

from bitsandbytes.nn import Linear4bit
from torch import nn


def keep_differentiable(model: nn.Module) -> None:
    """Forbid bitsandbytes to repack 4-bit weights for inference.

    On processors with AVX512-BF16 the first pass without gradients repacks the weights for a
    faster kernel that rounds to bfloat16 and has no backward: training after a validation would
    lose the gradient through every quantised layer, with a mere warning.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
