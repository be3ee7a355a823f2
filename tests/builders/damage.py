"""Damages files as a power failure, a failing disk or a careless hand does."""

import os
import random
from pathlib import Path
from typing import Final

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
