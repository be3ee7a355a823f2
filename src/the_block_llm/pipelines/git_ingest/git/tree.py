"""The entries of a commit's tree, as ``git ls-tree`` lists them."""

import functools
from collections.abc import Iterator
from typing import Final, NamedTuple

from the_block_llm.pipelines.git_ingest.git.sandbox import GitProcessError, RepositorySandbox

_SYMLINK: Final = b"120000"
_SUBMODULE: Final = b"160000"
_TREE: Final = b"040000"


class TreeEntry(NamedTuple):
    """A file, symlink or submodule, or a folder whose tree object cannot be read."""

    mode: bytes
    blob: str
    path: bytes

    @property
    def is_symlink(self) -> bool:
        return self.mode == _SYMLINK

    @property
    def is_submodule(self) -> bool:
        return self.mode == _SUBMODULE


def list_tree(sandbox: RepositorySandbox, sha: str) -> Iterator[TreeEntry]:
    """Yield every file of the commit ``sha``, sorted by path as bytes.

    A folder that is missing from the repository is yielded as one entry whose path ends
    in ``/``; its size cannot be read either.
    """
    if not _is_tree_complete(sandbox, sha):
        tree = sandbox.check_output("log", "--no-walk", "--format=%T", sha).decode().strip()
        yield from _list_readable(sandbox, tree, b"")
        return
    for line in sandbox.iter_records("ls-tree", "-r", "-z", "--full-tree", sha, separator=b"\0"):
        yield _parse_entry(line, b"")


@functools.lru_cache(maxsize=64)  # a snapshot lists its tree twice
def _is_tree_complete(sandbox: RepositorySandbox, sha: str) -> bool:
    options = ("-r", "-d", "-z", "--full-tree")
    try:
        for _ in sandbox.iter_records("ls-tree", *options, sha, separator=b"\0"):
            pass
    except GitProcessError:
        return False
    return True


def _list_readable(sandbox: RepositorySandbox, tree: str, folder: bytes) -> Iterator[TreeEntry]:
    try:
        output = sandbox.check_output("ls-tree", "-z", "--full-tree", tree)
    except GitProcessError:
        yield TreeEntry(_TREE, tree, folder or b"/")
        return
    for line in output.split(b"\0")[:-1]:
        entry = _parse_entry(line, folder)
        if entry.mode == _TREE:
            yield from _list_readable(sandbox, entry.blob, entry.path + b"/")
        else:
            yield entry


def _parse_entry(line: bytes, folder: bytes) -> TreeEntry:
    fields, path = line.split(b"\t", 1)
    mode, _, blob = fields.split(b" ", 2)
    return TreeEntry(mode, blob.strip().decode(), folder + path)
