"""Writes and resumes checkpoints, and writes the finished adapter with its manifest."""
