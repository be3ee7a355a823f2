"""Commits that git cannot diff because objects are missing, damaged or far too large.

``git diff-tree -p`` ends at the first such object. What changed is still known from the
trees, and the patches of the other files can be had by asking for them by path.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.blob_reader import BlobReader
from the_block_llm.pipelines.git_ingest.patch_stream import (
    DIFF_OPTIONS,
    HEADER_OPTIONS,
    RAW_OPTIONS,
    CommitHeader,
    FilePatch,
    PatchReader,
    RawChange,
    parse_header,
)
from the_block_llm.pipelines.git_ingest.private_view import GitStoppedError, PrivateView

_SUBMODULE: Final = b"160000"
_FILES_AT_A_TIME: Final = 16
_END: Final = b"end-of-output"


def read_damaged_commit(
    view: PrivateView, blobs: BlobReader, sha: str
) -> tuple[CommitHeader, Iterator[FilePatch] | None]:
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
        return header, iter(())
    try:
        listed = view.read("diff-tree", "--no-commit-id", *RAW_OPTIONS, sha)
    except GitStoppedError:
        return header, None
    return header, _patches(view, blobs, sha, PatchReader(listed + _END).changes())


def changed_blobs(change: RawChange) -> list[str]:
    """Return the contents that a change is made of, without those of submodules."""
    sides = ((change.old_mode, change.old_blob), (change.new_mode, change.new_blob))
    return [blob.decode() for mode, blob in sides if mode != _SUBMODULE and blob.strip(b"0")]


def _patches(
    view: PrivateView, blobs: BlobReader, sha: str, changes: Iterator[RawChange]
) -> Iterator[FilePatch]:
    while group := list(itertools.islice(changes, _FILES_AT_A_TIME)):
        readable = [c for c in group if None not in blobs.sizes(changed_blobs(c))]
        patch_of = {patch.change.path: patch for patch in _read_patches(view, sha, readable)}
        for change in group:
            yield patch_of.get(change.path) or FilePatch(change, b"", False, 0, 0, is_missing=True)


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
