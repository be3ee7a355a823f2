"""Splits the work into shards, runs them in parallel and caches finished ones on disk."""
