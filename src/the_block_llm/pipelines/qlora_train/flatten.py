"""Nested mappings as dotted names, the notation of parameters on the command line."""

from collections.abc import Iterator, Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaf values of a nested mapping with their dotted names.

    >>> dict(flatten({"lora": {"r": 16}, "role": "advisor"}))
    {'lora.r': 16, 'role': 'advisor'}
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
