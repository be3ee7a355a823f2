"""Checkpoints of a run in progress, its log history and metrics, and the finished adapter."""
