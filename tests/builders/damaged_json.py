"""JSON values as older versions or a damaged disk leave them."""

import copy
from collections.abc import Iterator
from typing import Any


def without_one_key(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the value without each of its keys, with the key's name."""
    for key in value:
        yield key, {other: content for other, content in value.items() if other != key}


def damaged(value: Any) -> Iterator[Any]:
    """Yield the value with one part of it removed, renamed or of another type, at any depth."""
    yield from (None, 3, "text", [], {}, [1], True)
    for path in _paths(value):
        for change in ("remove", "rename", None, 3, "text", [], {}, [None], {"x": 1}):
            other = copy.deepcopy(value)
            parent = other
            for step in path[:-1]:
                parent = parent[step]
            if change in ("remove", "rename"):
                removed = parent.pop(path[-1])
                if change == "rename" and isinstance(parent, dict):
                    parent["renamed"] = removed
            else:
                parent[path[-1]] = change
            yield other


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list)
        else ()
    )  # fmt: skip
    for key, content in items:
        yield (*path, key)
        yield from _paths(content, (*path, key))
