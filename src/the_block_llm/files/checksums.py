"""Checksums of files and of JSON, by which damage on disk is found when they are read.

CRC-32 finds every changed byte, every burst of up to 32 bits and all but one in four billion
other changes, at two gigabytes a second. It is no protection against somebody who alters files on
purpose. A file is read for its checksum once per process: the result is kept by device, inode,
size and modification time, so hard links of it are not read again either.
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Final

_CHECKSUM_KEY: Final = "checksum"
_LIST_KEY: Final = "items"
_READ_BYTES: Final = 1 << 20
Data = bytes | bytearray | memoryview
_known: dict[tuple[int, int, int, int], str] = {}


def checksum(data: Data) -> str:
    """Return the CRC-32 of ``data`` in eight hexadecimal digits.

    >>> checksum(b"a block")
    'f238fd26'
    """
    return f"{zlib.crc32(data):08x}"


def file_checksum(path: Path) -> str:
    """Return the checksum of a file's content.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        key = _file_key(os.fstat(file.fileno()))
        if key not in _known:
            crc = 0
            while data := file.read(_READ_BYTES):
                crc = zlib.crc32(data, crc)
            _known[key] = f"{crc:08x}"
        return _known[key]


def remember_checksum(path: Path, value: str) -> None:
    """Record the checksum of a file that this process has just written."""
    _known[_file_key(path.stat())] = value


class ChecksumFile:
    """A file opened for writing that computes the checksum of what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        """Wrap ``file``, which is empty."""
        self._file = file
        self._crc = 0

    @property
    def checksum(self) -> str:
        """Checksum of what has been written so far."""
        return f"{self._crc:08x}"

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Data) -> int:
        self._crc = zlib.crc32(data, self._crc)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Flush only: whoever opened the file closes it, after it has been written to disk."""
        self._file.flush()


def describe_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return size in bytes and checksum of each file, by its name."""
    return {
        path.name: {"bytes": path.stat().st_size, "checksum": file_checksum(path)}
        for path in sorted(paths)
    }


def find_damage(
    folder: Path, files: Mapping[str, Mapping[str, Any]], sizes_only: bool = False
) -> str | None:
    """Compare the files in ``folder`` with a description by :func:`describe_files`.

    Args:
        folder: Folder of the files.
        files: Size and checksum of each file.
        sizes_only: Do not read the files.

    Returns:
        What is wrong with the first file that differs; None if none does.
    """
    for name, expected in files.items():
        path = folder / name
        try:
            n_bytes = path.stat().st_size
            if n_bytes != expected["bytes"]:
                return f"{name} has {n_bytes:,} bytes instead of {expected['bytes']:,}"
            if not sizes_only and file_checksum(path) != expected["checksum"]:
                return f"the content of {name} does not match its checksum"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def json_with_checksum(content: Any, indent: int | None = None) -> str:
    r"""Return ``content`` as JSON with its checksum as the last key; a list becomes an object.

    >>> json_with_checksum({"rows": 3})
    '{"rows": 3, "checksum": "48ce35c8"}'
    """
    values = dict(content) if isinstance(content, Mapping) else {_LIST_KEY: content}
    # NaN is not valid JSON; other programs could not read the file.
    digest = checksum(json.dumps(values, allow_nan=False).encode())
    return json.dumps({**values, _CHECKSUM_KEY: digest}, indent=indent)


def parse_json_with_checksum(text: str | bytes) -> Any:
    """Return the content of :func:`json_with_checksum`.

    The values are compared, not the bytes, so the JSON may have been reformatted.

    Raises:
        ValueError: The text is damaged.
    """
    values = json.loads(text)
    if not isinstance(values, dict) or _CHECKSUM_KEY not in values:
        raise ValueError("it has no checksum")
    stored = values.pop(_CHECKSUM_KEY)
    if checksum(json.dumps(values).encode()) != stored:
        raise ValueError("its content does not match its checksum")
    return values[_LIST_KEY] if values.keys() == {_LIST_KEY} else values


def _file_key(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
