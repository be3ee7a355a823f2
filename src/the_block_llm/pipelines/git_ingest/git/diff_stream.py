"""Streams commits with their patches from one long-lived ``git diff-tree`` process."""

import contextlib
import io
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, cast

from the_block_llm.pipelines.git_ingest.git.diff_parser import (
    DIFF_OPTIONS,
    HEADER_OPTIONS,
    CommitHeader,
    DiffParser,
    FilePatch,
)
from the_block_llm.pipelines.git_ingest.git.sandbox import GitProcessError, RepositorySandbox

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

# git diff-tree echoes input lines that are not object names.
_END_OF_BATCH: Final = "end-of-batch"
_PIPE_BYTES: Final = 1 << 20
# The names of two batches fit into a pipe's 64 KiB, SHA-256 too: a request never blocks on git.
_BATCH_COMMITS: Final = 384
# git writes a few kilobytes at a time. Waking up for each write costs more than reading.
_BLOCK_BYTES: Final = 1 << 18
_SMALL_BLOCK_BYTES: Final = 1 << 16
_PAUSE_S: Final = 0.001


class DiffStream(DiffParser):
    """A ``git diff-tree --stdin`` process that is sent commits and whose output is parsed."""

    _lookahead_bytes = 1 << 20

    def __init__(self, sandbox: RepositorySandbox) -> None:
        super().__init__()
        self._process = sandbox.start(
            "diff-tree", "--stdin", "--always", *HEADER_OPTIONS, *DIFF_OPTIONS,
            stdin=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018
        self._block = memoryview(bytearray(_BLOCK_BYTES))
        self._pending_batch: list[str] | None = None
        """The last batch sent to git, until it is read back."""
        self._is_starved = False
        """The parser reads faster than git writes."""
        self._stdin = self._process.stdin
        # Popen runs with bufsize=0.
        self._stdout = cast("io.FileIO", self._process.stdout)
        if fcntl is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
            # Above the user's quota of pipe memory the pipe stays small, which is only slower.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def close(self) -> None:
        self._stdin.close()
        self._stdout.close()
        self._process.kill()
        self._process.wait()

    def commits(
        self, shas: Sequence[str], prefetch: Sequence[str] = ()
    ) -> Iterator[tuple[CommitHeader, Iterable[FilePatch]]]:
        """Yield each commit with its patches, which must be consumed before the next commit.

        Patches are a list unless the commit is too large to buffer.

        Args:
            shas: Commits to read.
            prefetch: Commits that are probably requested next; git starts on them already.

        Raises:
            GitProcessError: git could not read an object. The stream must be closed.
        """
        batches = [
            list(group[start : start + _BATCH_COMMITS])
            for group in (shas, prefetch[:_BATCH_COMMITS])
            for start in range(0, len(group), _BATCH_COMMITS)
        ]
        n_requested = len(batches) - bool(prefetch)
        for i, batch in enumerate(batches[:n_requested]):
            self._send(batch)
            if i + 1 < len(batches):
                self._send(batches[i + 1])
            yield from self._read_batch(batch)

    def can_serve(self, shas: Sequence[str]) -> bool:
        """Return False if git is prefetching other commits."""
        return self._pending_batch is None or self._pending_batch == list(shas[:_BATCH_COMMITS])

    def _send(self, shas: list[str]) -> None:
        if self._pending_batch == shas:
            return
        try:
            self._stdin.write("".join(f"{sha}\n" for sha in (*shas, _END_OF_BATCH)).encode())
        except BrokenPipeError as error:
            raise GitProcessError("git diff-tree has exited") from error
        self._pending_batch = shas

    def _read_batch(
        self, shas: Sequence[str]
    ) -> Iterator[tuple[CommitHeader, Iterable[FilePatch]]]:
        boundaries = [*(f"\n{sha}\0".encode() for sha in shas[1:]), f"\n{_END_OF_BATCH}\n".encode()]
        for sha, boundary in zip(shas, boundaries, strict=True):
            header = self.header()
            if header.sha != sha:
                raise GitProcessError(f"git printed commit {header.sha[:80]} instead of {sha}")
            if self.peek() != b"\n":
                yield header, []
                continue
            self._position += 1
            patches = self.patches(self.changes(), boundary)
            yield header, patches
            if not isinstance(patches, list):
                for _ in patches:
                    pass
        self.skip(len(_END_OF_BATCH) + 1)
        if self._pending_batch == shas:
            self._pending_batch = None

    def _read_block(self) -> memoryview:
        if self._is_starved:
            time.sleep(_PAUSE_S)
        # One reused buffer: allocating this much each time costs as much as reading it.
        n_bytes = self._stdout.readinto(self._block)
        if not n_bytes:
            raise GitProcessError("git diff-tree exited early")
        self._is_starved = n_bytes < _SMALL_BLOCK_BYTES
        return self._block[:n_bytes]
