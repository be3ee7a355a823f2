"""Keeps weights and activations in host memory or on disk, and streams them to the device."""
