"""Checks before training: memory, disk space, parameter count, throughput."""
