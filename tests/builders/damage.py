"""Files and JSON values as a power failure, a failing disk or an older version leaves them."""

import copy
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

FAULTS: Final = ("truncate", "empty", "delete", "zeros", "bit")


def damage_file(path: Path, fault: str, rng: random.Random) -> None:
    """Change a file in place, so that hard links of it change as well.

    Args:
        path: A file that is not empty.
        fault: One of ``FAULTS``.
        rng: Decides where.
    """
    before = path.stat()
    if fault == "delete":
        path.unlink()
        return
    if fault in ("truncate", "empty"):
        os.truncate(path, 0 if fault == "empty" else rng.randrange(before.st_size))
    else:
        data = bytearray(path.read_bytes())
        start = rng.choice([n for n, byte in enumerate(data) if byte])
        if fault == "bit":
            data[start] ^= 1 << rng.randrange(8)
        else:
            end = min(len(data), start + rng.randint(1, 4096))
            data[start:end] = bytes(end - start)
        with path.open("r+b") as file:
            file.write(data)
    # Within one tick of the file system's clock a change would keep the time, which decides
    # whether this process reads the file for its checksum again.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


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
