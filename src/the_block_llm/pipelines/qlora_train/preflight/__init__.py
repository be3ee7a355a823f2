"""Checks before training: disk space, memory, parameter count, throughput."""
