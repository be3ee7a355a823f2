"""Parses source files: boundaries, docstrings, outlines, imports."""
