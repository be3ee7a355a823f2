"""Runs the models over every item and caches each result."""
