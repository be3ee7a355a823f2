"""Commits with their patches, read from one long-lived ``git diff-tree``."""

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
    FilePatch,
    PatchReader,
)
from the_block_llm.pipelines.git_ingest.git.sandbox import GitStoppedError, PrivateView

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

_END: Final = "end-of-piece"
_PIPE_BYTES: Final = 1 << 20
# Two times their names fit into a pipe's 64 KiB, SHA-256 too: asking never waits for git.
_ASKED_AT_A_TIME: Final = 384
# Git writes some kilobytes at a time. To wake up for each costs more than all the reading.
_BLOCK_BYTES: Final = 1 << 18
_SMALL_BLOCK_BYTES: Final = 1 << 16
_PAUSE_S: Final = 0.001


class PatchStream(PatchReader):
    """A ``git diff-tree`` process that is fed commits and read back."""

    _at_hand_bytes = 1 << 20

    def __init__(self, view: PrivateView) -> None:
        super().__init__()
        self._process = view.start(
            "diff-tree", "--stdin", "--always", *HEADER_OPTIONS, *DIFF_OPTIONS,
            stdin=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018
        self._block = memoryview(bytearray(_BLOCK_BYTES))
        self._asked: list[str] | None = None
        """What git was told last and has not answered."""
        self._is_ahead = False
        """This side reads faster than git writes."""
        self._stdin = self._process.stdin
        # Popen was told not to buffer.
        self._stdout = cast("io.FileIO", self._process.stdout)
        if fcntl is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
            # Over the user's quota of pipe memory it stays small, which is only slower.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def close(self) -> None:
        self._stdin.close()
        self._stdout.close()
        self._process.kill()
        self._process.wait()

    def commits(
        self, shas: Sequence[str], then: Sequence[str] = ()
    ) -> Iterator[tuple[CommitHeader, Iterable[FilePatch]]]:
        """Yield each commit with its patches, which must be taken before the next commit.

        They come as a list, unless the commit is too large to be held.

        Args:
            shas: What to read.
            then: What will probably be asked next, so that git can go on with it meanwhile.

        Raises:
            GitStoppedError: Git could not read an object. The stream is of no use afterwards.
        """
        groups = [
            list(group[start : start + _ASKED_AT_A_TIME])
            for group in (shas, then[:_ASKED_AT_A_TIME])
            for start in range(0, len(group), _ASKED_AT_A_TIME)
        ]
        n_to_answer = len(groups) - bool(then)
        for i, group in enumerate(groups[:n_to_answer]):
            self._ask(group)
            if i + 1 < len(groups):
                self._ask(groups[i + 1])
            yield from self._answers(group)

    def can_answer(self, shas: Sequence[str]) -> bool:
        """False where git is at work on something else that it was told to come next."""
        return self._asked is None or self._asked == list(shas[:_ASKED_AT_A_TIME])

    def _ask(self, shas: list[str]) -> None:
        if self._asked == shas:
            return
        try:
            self._stdin.write("".join(f"{sha}\n" for sha in (*shas, _END)).encode())
        except BrokenPipeError as error:
            raise GitStoppedError("git diff-tree has ended") from error
        self._asked = shas

    def _answers(self, shas: Sequence[str]) -> Iterator[tuple[CommitHeader, Iterable[FilePatch]]]:
        borders = [*(f"\n{sha}\0".encode() for sha in shas[1:]), f"\n{_END}\n".encode()]
        for sha, border in zip(shas, borders, strict=True):
            header = self.header()
            if header.sha != sha:
                raise GitStoppedError(f"git answered {header.sha[:80]} when asked for {sha}")
            if self.next_byte() != b"\n":
                yield header, []
                continue
            self._at += 1
            patches = self.patches(self.changes(), border)
            yield header, patches
            if not isinstance(patches, list):
                for _ in patches:
                    pass
        self.step(len(_END) + 1)
        if self._asked == shas:
            self._asked = None

    def _read_block(self) -> memoryview:
        if self._is_ahead:
            time.sleep(_PAUSE_S)
        # Into the same memory each time: new memory of that size costs as much as the reading.
        n_bytes = self._stdout.readinto(self._block)
        if not n_bytes:
            raise GitStoppedError("git diff-tree ended early")
        self._is_ahead = n_bytes < _SMALL_BLOCK_BYTES
        return self._block[:n_bytes]
