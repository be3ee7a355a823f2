"""Nested values by one name each, as parameters are named on the command line."""

from collections.abc import Iterator, Mapping
from typing import Any


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that is no mapping, with the names that lead to it.

    >>> dict(dotted({"lora": {"r": 16}, "role": "advisor"}))
    {'lora.r': 16, 'role': 'advisor'}
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
