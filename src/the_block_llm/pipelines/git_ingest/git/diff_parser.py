r"""What ``git diff-tree`` prints of commits, cut into headers, changes and patches.

Bytes are cut with ``bytes.find`` and nothing is looked at line by line: inside a patch every
line begins with a mark (`` +-\@``), so a line that begins with ``diff --git`` or with the
next commit's sha can only be a border.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from the_block_llm.pipelines.git_ingest.git.sandbox import GitStoppedError

_SECTION: Final = b"\ndiff --git "
_HUNK: Final = b"\n@@ "
_BINARY: Final = b"\nBinary files "
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
    rb":(\d+) (\d+) ([0-9a-f]+) ([0-9a-f]+) (?:([RC])(\d+)\0([^\0]+)|([ADMTUX])\d*)\0([^\0]+)\0"
)
_CHANGES: Final = re.compile(
    rb"(?::\d+ \d+ [0-9a-f]+ [0-9a-f]+ (?:[RC]\d+\0[^\0]+|[ADMTUX]\d*)\0[^\0]+\0)*+"
)
_STATUS: Final = {bytes([letter]): chr(letter) for letter in b"ADMTUXRC"}
# So many changes are held as they come; longer lists, of up to a million files, compressed.
_PLAIN_BYTES: Final = 1 << 20


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

    Holds what arrived last and the part that is being taken: a commit, or of a large one a
    file's patch and, compressed, the list of its changes.
    """

    _at_hand_bytes = 0
    """So much is waited for, so that a commit that is no larger is cut in one go."""

    def __init__(self, data: bytes = b"") -> None:
        """Read from ``data``; a subclass may have more to come."""
        self._bytes = data
        self._at = 0

    def _read_block(self) -> bytes | memoryview:
        """Return what comes next; it is copied before the next call."""
        raise GitStoppedError("git diff-tree printed less than announced")

    def _more(self) -> None:
        self._bytes = self._bytes[self._at :] + self._read_block()
        self._at = 0

    def header(self) -> CommitHeader:
        """Take the fields that HEADER_OPTIONS ask for."""
        while (found := _HEADER.match(self._bytes, self._at)) is None:
            self._more()
        self._at = found.end()
        sha, parents, name, email, date, committed, subject, body = found.groups()
        return CommitHeader(
            sha.decode(), parents.decode().split(), name, email, date, committed, subject, body
        )

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
        packed: list[bytes] = []
        n_bytes = 0
        while True:
            end = _CHANGES.match(self._bytes, self._at).end()  # type: ignore[union-attr]
            records.append(self._bytes[self._at : end])
            n_bytes += end - self._at
            self._at = end
            if self.next_byte() != b":":
                break
            if n_bytes > _PLAIN_BYTES:
                packed.append(zlib.compress(b"".join(records), 1))
                records, n_bytes = [], 0
            self._more()
        if not packed:
            return map(_change_of, _CHANGE.findall(b"".join(records)))
        return _unpacked(packed, records)

    def patches(self, changes: Iterator[RawChange], border: bytes) -> Iterable[FilePatch]:
        """Return the patch of each change, up to ``border`` (its first byte ends the last).

        A list where all of the commit is at hand, else they are cut as they come.
        """
        if self.next_byte() == b"\0":
            self._at += 1
        border_at = self._border_at_hand(border)
        if border_at < 0:
            return self._streamed(changes, border)
        return self._cut(changes, border_at + 1)

    def _border_at_hand(self, border: bytes) -> int:
        """Where the border is; -1 where it does not come soon enough."""
        looked_at = self._at
        while (border_at := self._bytes.find(border, looked_at)) < 0:
            n_bytes = len(self._bytes) - self._at
            if n_bytes >= self._at_hand_bytes:
                break
            self._more()
            looked_at = max(0, n_bytes - len(border))
        return border_at

    def _cut(self, changes: Iterator[RawChange], end: int) -> list[FilePatch]:
        """Cut the patches of a commit of which all has arrived, up to ``end``."""
        data, at = self._bytes, self._at
        self._at = end
        patches = []
        for change in changes:
            pieces = []
            is_binary = False
            for _ in range(_n_sections(change)):
                if at >= end:
                    break
                start, at = at, data.find(_SECTION, at, end - 1) + 1 or end
                hunks_at = data.find(_HUNK, start, at) + 1
                if hunks_at:
                    pieces.append(data[hunks_at:at])
                else:
                    is_binary = is_binary or data.find(_BINARY, start, at) >= 0
            patches.append(_patch(change, pieces, is_binary))
        if at < end:
            raise GitStoppedError("git printed more patches than changes")
        return patches

    def _streamed(self, changes: Iterator[RawChange], border: bytes) -> Iterator[FilePatch]:
        sections = self._sections(border)
        for change in changes:
            pieces = []
            is_binary = False
            for _ in range(_n_sections(change)):
                hunks, is_binary_here = next(sections, (b"", False))
                pieces.append(hunks)
                is_binary = is_binary or is_binary_here
            yield _patch(change, pieces, is_binary)
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
                yield b"", data.find(_BINARY, start, end) >= 0
            if is_last:
                return


def parse_header(said: bytes) -> CommitHeader:
    """Make a header of the fields that HEADER_OPTIONS ask for.

    Raises:
        GitStoppedError: They are not all there.
    """
    return PatchReader(said).header()


def _n_sections(change: RawChange) -> int:
    # A file that becomes a symlink or a submodule is shown as deleted and created.
    is_two = change.status == "T" and change.old_mode[:3] != change.new_mode[:3]
    return 2 if is_two else 1


def _patch(change: RawChange, pieces: list[bytes], is_binary: bool) -> FilePatch:
    hunks = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return FilePatch(change, hunks, is_binary, hunks.count(b"\n+"), hunks.count(b"\n-"))


def _unpacked(packed: list[bytes], records: list[bytes]) -> Iterator[RawChange]:
    for some in packed:
        yield from map(_change_of, _CHANGE.findall(zlib.decompress(some)))
    yield from map(_change_of, _CHANGE.findall(b"".join(records)))


def _change_of(fields: tuple[bytes, ...]) -> RawChange:
    old_mode, new_mode, old, new, letter, similarity, old_path, other, path = fields
    if other:
        return RawChange(old_mode, new_mode, old, new, _STATUS[other], None, path, None)
    return RawChange(old_mode, new_mode, old, new, _STATUS[letter], int(similarity), path, old_path)
