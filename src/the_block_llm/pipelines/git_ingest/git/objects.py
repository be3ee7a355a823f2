"""Contents and sizes of single objects, from long-lived ``git cat-file`` processes."""

import functools
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Final

from the_block_llm.pipelines.git_ingest.git.byte_reader import ByteReader
from the_block_llm.pipelines.git_ingest.git.sandbox import GitStoppedError, PrivateView

# As many questions as surely fit into a pipe while git is still busy answering.
_QUESTIONS_AT_A_TIME: Final = 256


class BlobReader:
    """Asks git for objects by their sha. Missing ones are answered with None."""

    def __init__(self, view: PrivateView) -> None:
        self._sizes = _Questions(view, "--batch-check")
        self._contents = _Questions(view, "--batch")

    def close(self) -> None:
        self._sizes.close()
        self._contents.close()

    def sizes(self, shas: Sequence[str]) -> list[int | None]:
        """Return the size of each object in bytes."""
        # A list: a caller that stopped half-way would leave answers to the next question.
        return list(self._sizes.ask(shas))

    def contents(self, shas: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the content of each object, which must be small enough to hold."""
        for size in self._contents.ask(shas):
            yield None if size is None else self._contents.reader.take(size + 1)[:-1]


class BlobReaders:
    """Readers that threads lend one another: starting git takes longer than reading ten files."""

    def __init__(self, view: PrivateView) -> None:
        self._view = view
        self._idle: SimpleQueue[BlobReader] = SimpleQueue()

    @contextmanager
    def reader(self) -> Iterator[BlobReader]:
        """Lend a reader; one at which something went wrong is not lent again."""
        try:
            reader = self._idle.get_nowait()
        except Empty:
            reader = BlobReader(self._view)
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        self._idle.put(reader)

    def close(self) -> None:
        """End those that nobody uses any more."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()


class _Questions:
    def __init__(self, view: PrivateView, mode: str) -> None:
        self._start = functools.partial(view.start, "cat-file", mode, stdin=subprocess.PIPE)
        self.reader = ByteReader(self._read_block)

    @functools.cached_property
    def _process(self) -> subprocess.Popen[bytes]:
        # Only where there is a question: most pieces of a history have none.
        return self._start()

    def ask(self, shas: Sequence[str]) -> Iterator[int | None]:
        assert self._process.stdin is not None  # noqa: S101
        for start in range(0, len(shas), _QUESTIONS_AT_A_TIME):
            asked = shas[start : start + _QUESTIONS_AT_A_TIME]
            try:
                self._process.stdin.write("".join(f"{sha}\n" for sha in asked).encode())
            except BrokenPipeError as error:
                raise GitStoppedError("git cat-file has ended") from error
            for _ in asked:
                # Either "<sha> <kind> <size>" or "<sha> missing".
                words = self.reader.until(b"\n").split()
                yield int(words[2]) if len(words) == 3 else None

    def _read_block(self) -> bytes:
        assert self._process.stdout is not None  # noqa: S101
        block = self._process.stdout.read(1 << 16)
        if not block:
            raise GitStoppedError("git cat-file ended early")
        return block

    def close(self) -> None:
        if "_process" not in vars(self):
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()
