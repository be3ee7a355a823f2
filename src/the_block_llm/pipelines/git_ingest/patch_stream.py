r"""Commits with their patches, read from one long-lived ``git diff-tree``.

Bytes are cut with ``bytes.find`` and nothing is looked at line by line: inside a patch every
line begins with a mark (`` +-\@``), so a line that begins with ``diff --git`` or with the
next commit's sha can only be a border.
"""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from the_block_llm.pipelines.git_ingest.byte_reader import ByteReader
from the_block_llm.pipelines.git_ingest.private_view import GitStoppedError, PrivateView

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

_SECTION: Final = b"\ndiff --git "
_END: Final = "end-of-piece"
_PIPE_BYTES: Final = 1 << 20
_N_FIELDS: Final = 8
HEADER_OPTIONS: Final = (
    "--date=raw", "--encoding=UTF-8",
    "--format=tformat:%H%x00%P%x00%aN%x00%aE%x00%ad%x00%ct%x00%s%x00%b",
)  # fmt: skip
DIFF_OPTIONS: Final = (
    "-r", "-z", "--raw", "-p", "-M", "-C", "--full-index", "--no-color", "--no-ext-diff",
    "--no-textconv", "--root", "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short",
)  # fmt: skip
# Names what changed by hashes alone and opens no file content; finds exact renames only.
RAW_OPTIONS: Final = ("-r", "-z", "--raw", "-M100%", "--full-index", "--root")


@dataclass(frozen=True, slots=True)
class CommitHeader:
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


@dataclass(frozen=True, slots=True)
class RawChange:
    """One record of ``git diff-tree --raw``."""

    old_mode: bytes
    new_mode: bytes
    old_blob: str
    new_blob: str
    status: str
    similarity: int | None
    path: bytes
    old_path: bytes | None

    @property
    def n_sections(self) -> int:
        # A file that becomes a symlink or a submodule is shown as deleted and created.
        return 2 if self.status == "T" and self.old_mode[:3] != self.new_mode[:3] else 1


@dataclass(frozen=True, slots=True)
class FilePatch:
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


class PatchStream:
    """A ``git diff-tree`` process that is fed commits and read back."""

    def __init__(self, view: PrivateView, options: Sequence[str] = DIFF_OPTIONS) -> None:
        self._process = view.start(
            "diff-tree", "--stdin", "--always", *HEADER_OPTIONS, *options, stdin=subprocess.PIPE
        )
        self._shows_patches = "-p" in options
        self.reading: str | None = None
        """The commit that git was asked for last."""
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self._reader = PatchReader(self._read_block)
        if fcntl is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
            # Over the user's quota of pipe memory it stays small, which is only slower.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def close(self) -> None:
        self._stdin.close()
        self._stdout.close()
        self._process.kill()
        self._process.wait()

    def commits(self, shas: Sequence[str]) -> Iterator[tuple[CommitHeader, Iterator[FilePatch]]]:
        """Yield each commit with its patches, which must be taken before the next commit.

        Args:
            shas: In the order in which they come back. A few hundred at most, so that they
                fit into the pipe while git is still writing.

        Raises:
            GitStoppedError: Git could not read an object. The stream is of no use afterwards.
        """
        try:
            self._stdin.write("".join(f"{sha}\n" for sha in (*shas, _END)).encode())
        except BrokenPipeError as error:
            raise GitStoppedError("git diff-tree has ended") from error
        for index, sha in enumerate(shas):
            self.reading = sha
            is_last = index + 1 == len(shas)
            border = f"{_END}\n".encode() if is_last else f"{shas[index + 1]}\0".encode()
            header = self._header(sha)
            patches = self._patches(border)
            yield header, patches
            for _ in patches:
                pass
        self._reader.take(len(_END) + 1)

    def _header(self, sha: str) -> CommitHeader:
        fields = [self._reader.until(b"\0") for _ in range(_N_FIELDS)]
        if fields[0].decode("ascii", "replace") != sha:
            raise GitStoppedError(f"git answered {fields[0][:80]!r} when asked for {sha}")
        return parse_header(fields)

    def _patches(self, border: bytes) -> Iterator[FilePatch]:
        if self._reader.peek() != b"\n":
            return
        self._reader.take(1)
        changes = list(self._reader.changes())
        if self._shows_patches:
            yield from self._reader.patches(changes, b"\n" + border)
        else:
            yield from (FilePatch(change, b"", False, 0, 0) for change in changes)

    def _read_block(self) -> bytes:
        block = self._stdout.read(_PIPE_BYTES)
        if not block:
            raise GitStoppedError("git diff-tree ended early")
        return block


class PatchReader(ByteReader):
    """Cuts the output of ``git diff-tree -z --raw -p`` into its parts, as it arrives."""

    def changes(self) -> Iterator[RawChange]:
        """Take the records of ``--raw -z`` that come next."""
        while self.peek() == b":":
            old_mode, new_mode, old_blob, new_blob, status = self.until(b"\0")[1:].split(b" ")
            first = self.until(b"\0")
            letter = status[:1].decode()
            is_pair = letter in "RC"
            yield RawChange(
                old_mode,
                new_mode,
                old_blob.decode(),
                new_blob.decode(),
                letter,
                int(status[1:]) if is_pair else None,
                self.until(b"\0") if is_pair else first,
                first if is_pair else None,
            )

    def patches(self, changes: Sequence[RawChange], border: bytes) -> Iterator[FilePatch]:
        """Yield the patch of each change, up to ``border`` (its first byte ends the last)."""
        sections = self._until_border(border)
        for change in changes:
            parts = [next(sections, b"") for _ in range(change.n_sections)]
            yield _file_patch(change, parts)
        if next(sections, None) is not None:
            raise GitStoppedError("git printed more patches than changes")

    def _until_border(self, border: bytes) -> Iterator[bytes]:
        if self.peek() == b"\0":
            self.take(1)
        border_at = self._bytes.find(border, self._at)
        while True:
            limit = len(self._bytes) if border_at < 0 else border_at
            while (end := self._bytes.find(_SECTION, self._at, limit)) >= 0:
                start, self._at = self._at, end + 1
                yield self._bytes[start : end + 1]
            if border_at >= 0:
                start, self._at = self._at, border_at + 1
                yield self._bytes[start : border_at + 1]
                return
            seen = len(self._bytes) - self._at
            self._more()
            border_at = self._bytes.find(border, max(0, seen - len(border) + 1))


def parse_header(fields: Sequence[bytes]) -> CommitHeader:
    """Make a header of the fields that HEADER_OPTIONS ask for."""
    sha, parents, name, email, date, committed, subject, body = fields
    return CommitHeader(
        sha.decode(), parents.decode().split(), name, email, date, committed, subject, body
    )


def _file_patch(change: RawChange, sections: Sequence[bytes]) -> FilePatch:
    hunks, is_binary = [], False
    for section in sections:
        start = section.find(b"\n@@ ")
        if start >= 0:
            hunks.append(section[start + 1 :])
        elif b"\nBinary files " in section:
            is_binary = True
    text = b"".join(hunks)
    return FilePatch(
        change, text, is_binary, additions=text.count(b"\n+"), deletions=text.count(b"\n-")
    )
