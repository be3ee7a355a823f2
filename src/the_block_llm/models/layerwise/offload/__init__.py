"""Keeps weights and activations in host memory and streams them to the GPU."""
