"""Contents and sizes of single objects, from long-lived ``git cat-file`` processes."""

import functools
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Final

from the_block_llm.pipelines.git_ingest.git.sandbox import GitProcessError, RepositorySandbox

# So many requests surely fit into a pipe while git is still busy answering earlier ones.
_MAX_PENDING_REQUESTS: Final = 256


class BlobReader:
    """Reads objects by their sha; a missing object is returned as None."""

    def __init__(self, sandbox: RepositorySandbox) -> None:
        self._sizes = _CatFileProcess(sandbox, "--batch-check")
        self._contents = _CatFileProcess(sandbox, "--batch")

    def close(self) -> None:
        self._sizes.close()
        self._contents.close()

    def sizes(self, shas: Sequence[str]) -> list[int | None]:
        """Return the size of each object in bytes."""
        # A list: a half-consumed iterator would leave responses for the next request.
        return list(self._sizes.request(shas))

    def contents(self, shas: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the content of each object, which must fit into memory."""
        for size in self._contents.request(shas):
            yield None if size is None else self._contents.output.read(size + 1)[:-1]


class BlobReaderPool:
    """Readers shared between threads: starting git takes longer than reading ten files."""

    def __init__(self, sandbox: RepositorySandbox) -> None:
        self._sandbox = sandbox
        self._idle: SimpleQueue[BlobReader] = SimpleQueue()

    @contextmanager
    def reader(self) -> Iterator[BlobReader]:
        """Check out a reader; it is closed instead of reused if the block raises."""
        try:
            reader = self._idle.get_nowait()
        except Empty:
            reader = BlobReader(self._sandbox)
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        self._idle.put(reader)

    def close(self) -> None:
        """Close the idle readers."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()


class _CatFileProcess:
    def __init__(self, sandbox: RepositorySandbox, mode: str) -> None:
        self._start = functools.partial(sandbox.start, "cat-file", mode, stdin=subprocess.PIPE)
        self.output = _BlockReader(self._read_block)

    @functools.cached_property
    def _process(self) -> subprocess.Popen[bytes]:
        # Started on the first request: most shards of a history make none.
        return self._start()

    def request(self, shas: Sequence[str]) -> Iterator[int | None]:
        """Yield the size of each object; with ``--batch`` the caller reads its content next."""
        assert self._process.stdin is not None  # noqa: S101
        for start in range(0, len(shas), _MAX_PENDING_REQUESTS):
            batch = shas[start : start + _MAX_PENDING_REQUESTS]
            try:
                self._process.stdin.write("".join(f"{sha}\n" for sha in batch).encode())
            except BrokenPipeError as error:
                raise GitProcessError("git cat-file has exited") from error
            for _ in batch:
                # Either "<sha> <type> <size>" or "<sha> missing".
                fields = self.output.read_until(b"\n").split()
                yield int(fields[2]) if len(fields) == 3 else None

    def _read_block(self) -> bytes:
        assert self._process.stdout is not None  # noqa: S101
        block = self._process.stdout.read(1 << 16)
        if not block:
            raise GitProcessError("git cat-file exited early")
        return block

    def close(self) -> None:
        if "_process" not in vars(self):
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()


class _BlockReader:
    """Buffered reader over blocks; holds one block and the part being read."""

    def __init__(self, read_block: Callable[[], bytes]) -> None:
        """Read with ``read_block``, which raises at the end of the input."""
        self._read_block = read_block
        self._buffer = b""
        self._position = 0

    def read(self, n_bytes: int) -> bytes:
        while len(self._buffer) - self._position < n_bytes:
            self._fill()
        start, self._position = self._position, self._position + n_bytes
        return self._buffer[start : self._position]

    def read_until(self, delimiter: bytes) -> bytes:
        """Return everything before ``delimiter`` and skip the delimiter."""
        search_from = self._position
        while (end := self._buffer.find(delimiter, search_from)) < 0:
            n_searched = len(self._buffer) - self._position
            self._fill()
            search_from = max(0, n_searched - len(delimiter) + 1)
        start, self._position = self._position, end + len(delimiter)
        return self._buffer[start:end]

    def _fill(self) -> None:
        self._buffer = self._buffer[self._position :] + self._read_block()
        self._position = 0
