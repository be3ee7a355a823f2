"""Selects, loads, evicts and caches models."""
