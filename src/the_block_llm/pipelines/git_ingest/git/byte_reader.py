"""Bytes that arrive in blocks, taken by length or up to a mark."""

from collections.abc import Callable


class ByteReader:
    """Reads what a process prints. Holds one block and the part that is being taken."""

    def __init__(self, read_block: Callable[[], bytes]) -> None:
        """Read with ``read_block``, which raises where nothing more comes."""
        self._read_block = read_block
        self._bytes = b""
        self._at = 0

    def peek(self) -> bytes:
        """Return the next byte without taking it."""
        while self._at >= len(self._bytes):
            self._more()
        return self._bytes[self._at : self._at + 1]

    def take(self, n_bytes: int) -> bytes:
        while len(self._bytes) - self._at < n_bytes:
            self._more()
        start, self._at = self._at, self._at + n_bytes
        return self._bytes[start : self._at]

    def until(self, mark: bytes) -> bytes:
        """Take everything before ``mark``, and step over it."""
        looked_at = self._at
        while (end := self._bytes.find(mark, looked_at)) < 0:
            n_seen = len(self._bytes) - self._at
            self._more()
            looked_at = max(0, n_seen - len(mark) + 1)
        start, self._at = self._at, end + len(mark)
        return self._bytes[start:end]

    def _more(self) -> None:
        self._bytes = self._bytes[self._at :] + self._read_block()
        self._at = 0
