"""Held-out text: bits per byte, contamination, passages for retrieval."""
