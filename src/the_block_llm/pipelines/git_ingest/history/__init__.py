"""Extracts commits and their diffs into ``commits`` and ``file_changes``."""
