"""Fused operations: Triton kernels for CUDA tensors, the same in PyTorch for others.

They write into strided views (a hidden state followed by its LoRA columns) or in place, which
saves passes over memory; docs/decisions/0002-layerwise-training.md explains why no library is
used.

The Triton kernels compute in float32 whatever the storage dtype. Row offsets are int64, since
131,072 tokens of 28,672 elements exceed 2**31.
"""
