r"""Parses the output of ``git diff-tree`` into commit headers, changes and patches.

The output is split with ``bytes.find``, never line by line: inside a patch every line starts with
one of `` +-\@``, so a line that starts with ``diff --git`` or with the next commit's sha can only
be a boundary.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from the_block_llm.pipelines.git_ingest.git.sandbox import GitProcessError

_SECTION: Final = b"\ndiff --git "
_HUNK: Final = b"\n@@ "
_BINARY: Final = b"\nBinary files "
HEADER_OPTIONS: Final = (
    "--date=raw", "--encoding=UTF-8",
    "--format=tformat:%H%x00%P%x00%aN%x00%aE%x00%ad%x00%ct%x00%e%x00%s%x00%b",
)  # fmt: skip
_HEADER: Final = re.compile(rb"([0-9a-f]+)\0" + rb"([^\0]*)\0" * 8)
DIFF_OPTIONS: Final = (
    "-r", "-z", "--raw", "-p", "-M", "-C", "--full-index", "--no-color", "--no-ext-diff",
    "--no-textconv", "--root", "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short",
)  # fmt: skip
# Lists changes by object IDs alone, reads no blob and detects only exact renames.
RAW_OPTIONS: Final = ("-r", "-z", "--raw", "-M100%", "--full-index", "--root")
_CHANGE: Final = re.compile(
    rb":(\d+) (\d+) ([0-9a-f]+) ([0-9a-f]+) (?:([RC])(\d+)\0([^\0]+)|([ADMTUX])\d*)\0([^\0]+)\0"
)
_CHANGES: Final = re.compile(
    rb"(?::\d+ \d+ [0-9a-f]+ [0-9a-f]+ (?:[RC]\d+\0[^\0]+|[ADMTUX]\d*)\0[^\0]+\0)*+"
)
_STATUS: Final = {bytes([letter]): chr(letter) for letter in b"ADMTUXRC"}
# Lists of changes up to this size are held as they are; longer ones, of up to a million files,
# are compressed.
_MAX_UNCOMPRESSED_BYTES: Final = 1 << 20


class CommitHeader(NamedTuple):
    """Metadata of a commit, as the bytes that git prints."""

    sha: str
    parents: list[str]
    author_name: bytes
    author_email: bytes
    author_date: bytes
    """Seconds since 1970 and the offset from UTC, for example ``1699999999 +0100``."""
    committed_at: bytes
    encoding: bytes
    """The encoding that the commit declares, from which git has converted name and message."""
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
    """From the first ``@@``; empty where git prints none."""
    is_binary: bool
    """git treats the content as binary, or it is larger than ``core.bigFileThreshold``."""
    additions: int
    deletions: int
    is_missing: bool = False
    """git cannot read one of the two blobs."""


class DiffParser:
    """Incremental parser for the output of ``git diff-tree -z --raw -p``.

    Holds the last block and the part being parsed: a whole commit, or, for a large commit,
    one file's patch and the compressed list of changes.
    """

    _lookahead_bytes = 0
    """Read up to this much to find the end of a commit and parse it from the buffer."""

    def __init__(self, data: bytes = b"") -> None:
        """Parse ``data``; a subclass may supply more through ``_read_block``."""
        self._buffer = data
        self._position = 0

    def _read_block(self) -> bytes | memoryview:
        """Return the next block; it is copied before the next call."""
        raise GitProcessError("git diff-tree printed less than announced")

    def _fill(self) -> None:
        self._buffer = self._buffer[self._position :] + self._read_block()
        self._position = 0

    def header(self) -> CommitHeader:
        """Parse the fields that ``HEADER_OPTIONS`` print."""
        while (match := _HEADER.match(self._buffer, self._position)) is None:
            self._fill()
        self._position = match.end()
        sha, parents, *others = match.groups()
        return CommitHeader(sha.decode(), parents.decode().split(), *others)

    def peek(self) -> bytes:
        """Return the next byte without consuming it."""
        while self._position >= len(self._buffer):
            self._fill()
        return self._buffer[self._position : self._position + 1]

    def skip(self, n_bytes: int) -> None:
        """Consume the next ``n_bytes``."""
        while len(self._buffer) - self._position < n_bytes:
            self._fill()
        self._position += n_bytes

    def changes(self) -> Iterator[RawChange]:
        """Consume the ``--raw -z`` records that follow, and return an iterator over them."""
        records: list[bytes] = []
        compressed: list[bytes] = []
        n_bytes = 0
        while True:
            end = _CHANGES.match(self._buffer, self._position).end()  # type: ignore[union-attr]
            records.append(self._buffer[self._position : end])
            n_bytes += end - self._position
            self._position = end
            if self.peek() != b":":
                break
            if n_bytes > _MAX_UNCOMPRESSED_BYTES:
                compressed.append(zlib.compress(b"".join(records), 1))
                records, n_bytes = [], 0
            self._fill()
        if not compressed:
            return map(_parse_change, _CHANGE.findall(b"".join(records)))
        return _decompress_changes(compressed, records)

    def patches(self, changes: Iterator[RawChange], boundary: bytes) -> Iterable[FilePatch]:
        """Return the patch of each change.

        Args:
            changes: Changes of the commit, from :meth:`changes`.
            boundary: Text that follows the commit; its first byte ends the last patch.

        Returns:
            A list if the whole commit fits into the buffer, otherwise an iterator that reads on.
        """
        if self.peek() == b"\0":
            self._position += 1
        boundary_position = self._find_boundary(boundary)
        if boundary_position < 0:
            return self._parse_streamed(changes, boundary)
        return self._parse_buffered(changes, boundary_position + 1)

    def _find_boundary(self, boundary: bytes) -> int:
        """Return the position of the boundary, or -1 if it is beyond the lookahead."""
        search_from = self._position
        while (boundary_position := self._buffer.find(boundary, search_from)) < 0:
            n_bytes = len(self._buffer) - self._position
            if n_bytes >= self._lookahead_bytes:
                break
            self._fill()
            search_from = max(0, n_bytes - len(boundary))
        return boundary_position

    def _parse_buffered(self, changes: Iterator[RawChange], end: int) -> list[FilePatch]:
        """Parse the patches of a commit that is in the buffer up to ``end``."""
        data, position = self._buffer, self._position
        self._position = end
        patches = []
        for change in changes:
            hunks = []
            is_binary = False
            for _ in range(_n_sections(change)):
                if position >= end:
                    break
                start, position = position, data.find(_SECTION, position, end - 1) + 1 or end
                hunks_start = data.find(_HUNK, start, position) + 1
                if hunks_start:
                    hunks.append(data[hunks_start:position])
                else:
                    is_binary = is_binary or data.find(_BINARY, start, position) >= 0
            patches.append(_make_patch(change, hunks, is_binary))
        if position < end:
            raise GitProcessError("git printed more patches than changes")
        return patches

    def _parse_streamed(self, changes: Iterator[RawChange], boundary: bytes) -> Iterator[FilePatch]:
        sections = self._sections(boundary)
        for change in changes:
            hunks = []
            is_binary = False
            for _ in range(_n_sections(change)):
                section_hunks, is_section_binary = next(sections, (b"", False))
                hunks.append(section_hunks)
                is_binary = is_binary or is_section_binary
            yield _make_patch(change, hunks, is_binary)
        if next(sections, None) is not None:
            raise GitProcessError("git printed more patches than changes")

    def _sections(self, boundary: bytes) -> Iterator[tuple[bytes, bool]]:
        """Yield the hunks of each section, and whether git reports its file as binary."""
        held: list[bytes] = []
        boundary_position = self._buffer.find(boundary, self._position)
        while True:
            data, start = self._buffer, self._position
            end = data.find(
                _SECTION, start, len(data) if boundary_position < 0 else boundary_position
            )
            if end < 0 and boundary_position < 0:
                # Bytes in ``held`` are not searched again, which keeps a long section linear. The
                # last bytes stay in the buffer, as they may be the start of a separator.
                self._position = max(start, len(data) - max(len(boundary), len(_SECTION)))
                held.append(data[start : self._position])
                self._fill()
                boundary_position = self._buffer.find(boundary)
                continue
            is_last = end < 0
            end = (boundary_position if is_last else end) + 1
            self._position = end
            if held:
                data = b"".join((*held, data[start:end]))
                start, end = 0, len(data)
                held.clear()
            hunks_start = data.find(_HUNK, start, end)
            if hunks_start >= 0:
                yield data[hunks_start + 1 : end], False
            else:
                yield b"", data.find(_BINARY, start, end) >= 0
            if is_last:
                return


def parse_header(output: bytes) -> CommitHeader:
    """Parse the fields that ``HEADER_OPTIONS`` print.

    Raises:
        GitProcessError: Fields are missing.
    """
    return DiffParser(output).header()


def _n_sections(change: RawChange) -> int:
    # git prints a change of type, such as a file that becomes a symlink, as deletion and creation.
    is_type_change = change.status == "T" and change.old_mode[:3] != change.new_mode[:3]
    return 2 if is_type_change else 1


def _make_patch(change: RawChange, sections: list[bytes], is_binary: bool) -> FilePatch:
    hunks = sections[0] if len(sections) == 1 else b"".join(sections)
    return FilePatch(change, hunks, is_binary, hunks.count(b"\n+"), hunks.count(b"\n-"))


def _decompress_changes(compressed: list[bytes], records: list[bytes]) -> Iterator[RawChange]:
    for block in compressed:
        yield from map(_parse_change, _CHANGE.findall(zlib.decompress(block)))
    yield from map(_parse_change, _CHANGE.findall(b"".join(records)))


def _parse_change(fields: tuple[bytes, ...]) -> RawChange:
    old_mode, new_mode, old, new, letter, similarity, old_path, other, path = fields
    if other:
        return RawChange(old_mode, new_mode, old, new, _STATUS[other], None, path, None)
    return RawChange(old_mode, new_mode, old, new, _STATUS[letter], int(similarity), path, old_path)
