r"""Commits with their patches, read from one long-lived ``git diff-tree``.

Bytes are cut with ``bytes.find`` and nothing is looked at line by line: inside a patch every
line begins with a mark (`` +-\@``), so a line that begins with ``diff --git`` or with the
next commit's sha can only be a border.
"""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from the_block_llm.pipelines.git_ingest.private_view import GitStoppedError, PrivateView

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

_SECTION: Final = b"\ndiff --git "
_HUNK: Final = b"\n@@ "
_END: Final = "end-of-piece"
_PIPE_BYTES: Final = 1 << 20
# Two times their names fit into a pipe's 64 KiB, SHA-256 too: asking never waits for git.
_ASKED_AT_A_TIME: Final = 384
# Git writes some kilobytes at a time. To wake up for each costs more than all the reading.
_BLOCK_BYTES: Final = 1 << 18
_SMALL_BLOCK_BYTES: Final = 1 << 16
_PAUSE_S: Final = 0.001
HEADER_OPTIONS: Final = (
    "--date=raw", "--encoding=UTF-8",
    "--format=tformat:%H%x00%P%x00%aN%x00%aE%x00%ad%x00%ct%x00%s%x00%b",
)  # fmt: skip
_HEADER: Final = re.compile(rb"([0-9a-f]+)\0" + rb"([^\0]*)\0" * 7)
DIFF_OPTIONS: Final = (
    "-r", "-z", "--raw", "-p", "-M", "-C", "--full-index", "--no-color", "--no-ext-diff",
    "--no-textconv", "--root", "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short",
)  # fmt: skip
# Names what changed by hashes alone and opens no file content; finds exact renames only.
RAW_OPTIONS: Final = ("-r", "-z", "--raw", "-M100%", "--full-index", "--root")
_CHANGE: Final = re.compile(
    rb":(\d+) (\d+) ([0-9a-f]+) ([0-9a-f]+) (?:([RC])(\d+)\0([^\0]+)|([A-Z])\d*)\0([^\0]+)\0"
)


class CommitHeader(NamedTuple):
    """What git says of a commit, as bytes."""

    sha: str
    parents: list[str]
    author_name: bytes
    author_email: bytes
    author_date: bytes
    """Seconds since 1970 and the offset from UTC, for example ``1699999999 +0100``."""
    committed_at: bytes
    subject: bytes
    body: bytes


class RawChange(NamedTuple):
    """One record of ``git diff-tree --raw``."""

    old_mode: bytes
    new_mode: bytes
    old_blob: bytes
    new_blob: bytes
    status: str
    similarity: int | None
    path: bytes
    old_path: bytes | None

    @property
    def n_sections(self) -> int:
        # A file that becomes a symlink or a submodule is shown as deleted and created.
        return 2 if self.status == "T" and self.old_mode[:3] != self.new_mode[:3] else 1


class FilePatch(NamedTuple):
    """The hunks of one change."""

    change: RawChange
    hunks: bytes
    """From the first ``@@``; empty where there is nothing to show."""
    is_binary: bool
    """Git takes the content as binary, or it is larger than git was told to load."""
    additions: int
    deletions: int
    is_missing: bool = False
    """Git cannot read one of the two contents."""


class PatchReader:
    """Cuts the output of ``git diff-tree -z --raw -p`` into its parts, as it arrives.

    Holds what arrived last and the part that is being taken: one file's patch, or the list of
    one commit's changes.
    """

    def __init__(self, data: bytes = b"") -> None:
        """Read from ``data``; a subclass may have more to come."""
        self._bytes = data
        self._at = 0

    def _read_block(self) -> bytes:
        raise GitStoppedError("git diff-tree printed less than announced")

    def _more(self) -> None:
        self._bytes = self._bytes[self._at :] + self._read_block()
        self._at = 0

    def header(self) -> CommitHeader:
        """Take the fields that HEADER_OPTIONS ask for."""
        while (found := _HEADER.match(self._bytes, self._at)) is None:
            self._more()
        self._at = found.end()
        return _header_of(found)

    def next_byte(self) -> bytes:
        """Return what comes next without taking it."""
        while self._at >= len(self._bytes):
            self._more()
        return self._bytes[self._at : self._at + 1]

    def step(self, n_bytes: int) -> None:
        """Leave out what comes next."""
        while len(self._bytes) - self._at < n_bytes:
            self._more()
        self._at += n_bytes

    def changes(self) -> Iterator[RawChange]:
        """Take the records of ``--raw -z`` that come next; they are parsed one by one."""
        records: list[bytes] = []
        while True:
            end = self._at
            while (found := _CHANGE.match(self._bytes, end)) is not None:
                end = found.end()
            records.append(self._bytes[self._at : end])
            self._at = end
            if self.next_byte() != b":":
                return map(_change_of, _CHANGE.finditer(b"".join(records)))
            self._more()

    def patches(self, changes: Iterator[RawChange], border: bytes) -> Iterator[FilePatch]:
        """Yield the patch of each change, up to ``border`` (its first byte ends the last)."""
        if self.next_byte() == b"\0":
            self._at += 1
        sections = self._sections(border)
        for change in changes:
            hunks, is_binary = next(sections, (b"", False))
            if change.n_sections == 2:
                more, is_binary_too = next(sections, (b"", False))
                hunks, is_binary = hunks + more, is_binary or is_binary_too
            yield FilePatch(change, hunks, is_binary, hunks.count(b"\n+"), hunks.count(b"\n-"))
        if next(sections, None) is not None:
            raise GitStoppedError("git printed more patches than changes")

    def _sections(self, border: bytes) -> Iterator[tuple[bytes, bool]]:
        """Yield the hunks of each section, and whether git calls its file binary."""
        held: list[bytes] = []
        border_at = self._bytes.find(border, self._at)
        while True:
            data, start = self._bytes, self._at
            end = data.find(_SECTION, start, len(data) if border_at < 0 else border_at)
            if end < 0 and border_at < 0:
                # What is put aside is not looked at again: a long section stays linear. The
                # last bytes may be the beginning of a mark.
                self._at = max(start, len(data) - max(len(border), len(_SECTION)))
                held.append(data[start : self._at])
                self._more()
                border_at = self._bytes.find(border)
                continue
            is_last = end < 0
            end = (border_at if is_last else end) + 1
            self._at = end
            if held:
                data = b"".join((*held, data[start:end]))
                start, end = 0, len(data)
                held.clear()
            hunks_at = data.find(_HUNK, start, end)
            if hunks_at >= 0:
                yield data[hunks_at + 1 : end], False
            else:
                yield b"", data.find(b"\nBinary files ", start, end) >= 0
            if is_last:
                return


class PatchStream(PatchReader):
    """A ``git diff-tree`` process that is fed commits and read back."""

    def __init__(self, view: PrivateView) -> None:
        super().__init__()
        self._process = view.start(
            "diff-tree", "--stdin", "--always", *HEADER_OPTIONS, *DIFF_OPTIONS,
            stdin=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018
        self._asked: list[str] | None = None
        """What git was told last and has not answered."""
        self._is_ahead = False
        """This side reads faster than git writes."""
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
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
    ) -> Iterator[tuple[CommitHeader, Iterator[FilePatch]]]:
        """Yield each commit with its patches, which must be taken before the next commit.

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

    def _answers(self, shas: Sequence[str]) -> Iterator[tuple[CommitHeader, Iterator[FilePatch]]]:
        borders = [*(f"\n{sha}\0".encode() for sha in shas[1:]), f"\n{_END}\n".encode()]
        for sha, border in zip(shas, borders, strict=True):
            header = self.header()
            if header.sha != sha:
                raise GitStoppedError(f"git answered {header.sha[:80]} when asked for {sha}")
            if self.next_byte() != b"\n":
                yield header, iter(())
                continue
            self._at += 1
            patches = self.patches(self.changes(), border)
            yield header, patches
            for _ in patches:
                pass
        self.step(len(_END) + 1)
        if self._asked == shas:
            self._asked = None

    def _read_block(self) -> bytes:
        if self._is_ahead:
            time.sleep(_PAUSE_S)
        block = os.read(self._stdout.fileno(), _BLOCK_BYTES)
        if not block:
            raise GitStoppedError("git diff-tree ended early")
        self._is_ahead = len(block) < _SMALL_BLOCK_BYTES
        return block


def parse_header(said: bytes) -> CommitHeader:
    """Make a header of the fields that HEADER_OPTIONS ask for.

    Raises:
        GitStoppedError: They are not all there.
    """
    return PatchReader(said).header()


def _header_of(found: "re.Match[bytes]") -> CommitHeader:
    sha, parents, name, email, date, committed, subject, body = found.groups()
    return CommitHeader(
        sha.decode(), parents.decode().split(), name, email, date, committed, subject, body
    )


def _change_of(found: "re.Match[bytes]") -> RawChange:
    old_mode, new_mode, old, new, letter, similarity, old_path, other, path = found.groups()
    if letter is None:
        return RawChange(old_mode, new_mode, old, new, other.decode(), None, path, None)
    return RawChange(old_mode, new_mode, old, new, letter.decode(), int(similarity), path, old_path)
