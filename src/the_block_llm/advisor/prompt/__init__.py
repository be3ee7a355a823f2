"""Builds prompts and truncates them to the context."""
