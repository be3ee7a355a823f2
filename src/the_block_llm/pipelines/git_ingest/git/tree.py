"""The entries of a commit's tree, as git lists them."""

import functools
from collections.abc import Iterator
from typing import Final, NamedTuple

from the_block_llm.pipelines.git_ingest.git.sandbox import GitStoppedError, PrivateView

_SYMLINK: Final = b"120000"
_SUBMODULE: Final = b"160000"
_TREE: Final = b"040000"


class TreeEntry(NamedTuple):
    """A file, symlink or submodule, or a folder whose own entries cannot be read."""

    mode: bytes
    blob: str
    path: bytes

    @property
    def is_symlink(self) -> bool:
        return self.mode == _SYMLINK

    @property
    def is_submodule(self) -> bool:
        return self.mode == _SUBMODULE


def list_tree(view: PrivateView, sha: str) -> Iterator[TreeEntry]:
    """Yield every file below the commit ``sha``, in the order of paths as bytes.

    A folder that is missing from the repository comes as one entry with a path ending
    in ``/``; its size cannot be read either.
    """
    if not _has_whole_tree(view, sha):
        tree = view.read("log", "--no-walk", "--format=%T", sha).decode().strip()
        yield from _list_readable(view, tree, b"")
        return
    for line in view.lines("ls-tree", "-r", "-z", "--full-tree", sha, separator=b"\0"):
        yield _entry(line, b"")


@functools.lru_cache(maxsize=64)  # a snapshot lists its tree twice
def _has_whole_tree(view: PrivateView, sha: str) -> bool:
    try:
        for _ in view.lines("ls-tree", "-r", "-d", "-z", "--full-tree", sha, separator=b"\0"):
            pass
    except GitStoppedError:
        return False
    return True


def _list_readable(view: PrivateView, tree: str, folder: bytes) -> Iterator[TreeEntry]:
    try:
        listed = view.read("ls-tree", "-z", "--full-tree", tree)
    except GitStoppedError:
        yield TreeEntry(_TREE, tree, folder or b"/")
        return
    for line in listed.split(b"\0")[:-1]:
        entry = _entry(line, folder)
        if entry.mode == _TREE:
            yield from _list_readable(view, entry.blob, entry.path + b"/")
        else:
            yield entry


def _entry(line: bytes, folder: bytes) -> TreeEntry:
    facts, path = line.split(b"\t", 1)
    mode, _, blob = facts.split(b" ", 2)
    return TreeEntry(mode, blob.strip().decode(), folder + path)
