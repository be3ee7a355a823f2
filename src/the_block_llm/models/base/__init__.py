"""Base models: where their files come from, and loading them quantized to NF4."""
