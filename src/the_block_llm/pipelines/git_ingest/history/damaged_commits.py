"""Commits that git cannot diff because objects are missing, damaged or far too large.

``git diff-tree -p`` ends at the first such object. What changed is still known from the
trees, and the patches of the other files can be had by leaving out those that cannot be read.
"""

import heapq
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git.diff_parser import (
    DIFF_OPTIONS,
    HEADER_OPTIONS,
    RAW_OPTIONS,
    CommitHeader,
    FilePatch,
    PatchReader,
    RawChange,
    parse_header,
)
from the_block_llm.pipelines.git_ingest.git.objects import BlobReader
from the_block_llm.pipelines.git_ingest.git.sandbox import GitStoppedError, PrivateView
from the_block_llm.pipelines.git_ingest.history.change_rows import changed_blobs

_FILES_AT_A_TIME: Final = 16
# Beyond, looking for copies takes git longer than the patches: it loads every file that was
# added or changed once more. Renames are still found.
_MOST_CHANGES_WITH_COPIES: Final = 1000
_MOST_LEFT_OUT: Final = 256  # git looks at each of them for every path of the commit
_ASKED_AT_A_TIME: Final = 256
_BLOCK_BYTES: Final = 1 << 16
_END: Final = b"end-of-output"


def read_damaged_commit(
    view: PrivateView, blobs: BlobReader, sha: str
) -> tuple[CommitHeader, Iterable[FilePatch] | None]:
    """Read what can be read of one commit; None in place of patches if its trees are gone.

    Raises:
        RepositoryError: The commit itself cannot be read.
    """
    try:
        said = view.read("log", "--no-walk", "--no-show-signature", "-z", *HEADER_OPTIONS, sha)
        header = parse_header(said)
    except GitStoppedError as error:
        raise RepositoryError(
            f"git cannot read the commit {sha}. Repair the repository (`git fsck` names the "
            "damage) or clone it again."
        ) from error
    if len(header.parents) > 1:
        return header, []
    try:
        listed = view.read("diff-tree", "--no-commit-id", *RAW_OPTIONS, sha)
    except GitStoppedError:
        return header, None
    return header, _patches(view, blobs, sha, listed)


def lacks_objects(view: PrivateView, blobs: BlobReader, sha: str) -> bool:
    """True where a tree or a changed file of the commit is not in the repository."""
    try:
        listed = view.read("diff-tree", "--no-commit-id", *RAW_OPTIONS, sha)
    except GitStoppedError:
        return True
    return bool(_lost(blobs, listed))


def _patches(view: PrivateView, blobs: BlobReader, sha: str, listed: bytes) -> Iterator[FilePatch]:
    lost = _lost(blobs, listed)
    n_changes = sum(1 for _ in PatchReader(listed + _END).changes())
    options = ("-M",) if n_changes > _MOST_CHANGES_WITH_COPIES else ()
    told: set[bytes] = set()
    if len(lost) <= _MOST_LEFT_OUT:
        try:
            with _WholeCommit(view, sha, options, leave_out=lost) as reader:
                # Git's own order is that of the paths' bytes.
                missing = (FilePatch(c, b"", False, 0, 0, is_missing=True) for c in lost)
                found = reader.patches(reader.changes(), b"\n" + _END)
                for patch in heapq.merge(found, missing, key=lambda patch: patch.change.path):
                    told.update(p for p in (patch.change.path, patch.change.old_path) if p)
                    yield patch
        except GitStoppedError:
            pass  # something else is damaged, which shows only in the reading
        else:
            return
    # What was not told yet.
    changes = PatchReader(listed + _END).changes()
    yield from _piecemeal(view, blobs, sha, (c for c in changes if c.path not in told))


def _lost(blobs: BlobReader, listed: bytes) -> list[RawChange]:
    """Return those of the changes in ``listed`` that git cannot show."""
    lost = []
    for group in _grouped(PatchReader(listed + _END).changes(), _ASKED_AT_A_TIME):
        needed = [changed_blobs(change) for change in group]
        sizes = iter(blobs.sizes(list(itertools.chain.from_iterable(needed))))
        lost += [
            change
            for change, sides in zip(group, needed, strict=True)
            if None in [next(sizes) for _ in sides]
        ]
    return lost


def _piecemeal(
    view: PrivateView, blobs: BlobReader, sha: str, changes: Iterator[RawChange]
) -> Iterator[FilePatch]:
    for group in _grouped(changes, _FILES_AT_A_TIME):
        readable = [c for c in group if None not in blobs.sizes(changed_blobs(c))]
        patch_of = {patch.change.path: patch for patch in _read_patches(view, sha, readable)}
        for change in group:
            yield patch_of.get(change.path) or FilePatch(change, b"", False, 0, 0, is_missing=True)


def _grouped(changes: Iterator[RawChange], n_changes: int) -> Iterator[list[RawChange]]:
    while group := list(itertools.islice(changes, n_changes)):
        yield group


class _WholeCommit(PatchReader):
    """What git prints of one commit without some of its changes."""

    def __init__(
        self, view: PrivateView, sha: str, options: Sequence[str], leave_out: Sequence[RawChange]
    ) -> None:
        super().__init__()
        paths = [path for c in leave_out for path in (c.old_path, c.path) if path is not None]
        self._process = view.start(
            "diff-tree", "--no-commit-id", *DIFF_OPTIONS, *options, sha,
            "--", ".", *(b":(top,exclude,literal)" + path for path in paths),
        )  # fmt: skip
        assert self._process.stdout is not None  # noqa: S101
        self._stdout = self._process.stdout
        self._is_at_end = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stdout.close()
        self._process.kill()
        self._process.wait()

    def _read_block(self) -> bytes:
        block = os.read(self._stdout.fileno(), _BLOCK_BYTES)
        if block:
            return block
        if self._is_at_end or self._process.wait() != 0:
            raise GitStoppedError("git diff-tree ended early")
        self._is_at_end = True
        return _END


def _read_patches(view: PrivateView, sha: str, changes: Sequence[RawChange]) -> list[FilePatch]:
    if not changes:
        return []
    paths = [path for c in changes for path in (c.old_path, c.path) if path is not None]
    try:
        said = view.read(
            "--literal-pathspecs", "diff-tree", "--no-commit-id", *DIFF_OPTIONS, "-M100%",
            sha, "--", *paths,
        )  # fmt: skip
    except GitStoppedError:
        # One of them cannot be read after all; the others can be had alone.
        if len(changes) == 1:
            return []
        return [patch for change in changes for patch in _read_patches(view, sha, [change])]
    reader = PatchReader(said + _END)
    return list(reader.patches(reader.changes(), b"\n" + _END))
