"""Fused operations: Triton on a GPU, the same in PyTorch elsewhere."""
