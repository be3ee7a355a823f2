"""Commits that git cannot diff because objects are missing, damaged or far too large.

``git diff-tree -p`` ends at the first such object. What changed is still known from the
trees, and the patches of the other files can be had by asking for them by path.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from the_block_llm.pipelines.git_ingest.blob_reader import BlobReader
from the_block_llm.pipelines.git_ingest.patch_stream import (
    DIFF_OPTIONS,
    HEADER_OPTIONS,
    RAW_OPTIONS,
    CommitHeader,
    FilePatch,
    PatchReader,
    PatchStream,
    RawChange,
    parse_header,
)
from the_block_llm.pipelines.git_ingest.private_view import GitStoppedError, PrivateView

_SUBMODULE: Final = b"160000"
_FILES_AT_A_TIME: Final = 16
_END: Final = b"end-of-output"


def commits_with_missing_objects(
    view: PrivateView, blobs: BlobReader, shas: Sequence[str]
) -> set[str]:
    """Return those of ``shas`` whose trees or changed files cannot all be read."""
    damaged: set[str] = set()
    blobs_of: dict[str, list[str]] = {}
    left = list(shas)
    while left:
        stream = PatchStream(view, RAW_OPTIONS)
        try:
            for header, patches in stream.commits(left):
                blobs_of[header.sha] = [b for p in patches for b in _blobs(p.change)]
            left = []
        except GitStoppedError:
            stopped_at = left.index(stream.reading) if stream.reading else 0
            damaged.add(left[stopped_at])
            left = left[stopped_at + 1 :]
        finally:
            stream.close()
    for sha, needed in blobs_of.items():
        if any(size is None for size in blobs.sizes(needed)):
            damaged.add(sha)
    return damaged


def read_damaged_commit(
    view: PrivateView, blobs: BlobReader, sha: str
) -> tuple[CommitHeader, Iterator[FilePatch] | None]:
    """Read what can be read of one commit; None in place of patches if its trees are gone."""
    said = view.read("log", "--no-walk", "--no-show-signature", "-z", *HEADER_OPTIONS, sha)
    header = parse_header(said.split(b"\0")[:8])
    if len(header.parents) > 1:
        return header, iter(())
    try:
        listed = view.read("diff-tree", "--no-commit-id", *RAW_OPTIONS, sha)
    except GitStoppedError:
        return header, None
    changes = list(_reader(listed + _END).changes())
    return header, _patches(view, blobs, sha, changes)


def _patches(
    view: PrivateView, blobs: BlobReader, sha: str, changes: Sequence[RawChange]
) -> Iterator[FilePatch]:
    for start in range(0, len(changes), _FILES_AT_A_TIME):
        group = changes[start : start + _FILES_AT_A_TIME]
        readable = [
            change for change in group if all(s is not None for s in blobs.sizes(_blobs(change)))
        ]
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
    reader = _reader(said + _END)
    return list(reader.patches(list(reader.changes()), b"\n" + _END))


def _reader(data: bytes) -> PatchReader:
    blocks = iter((data,))

    def read_block() -> bytes:
        try:
            return next(blocks)
        except StopIteration:
            raise GitStoppedError("git diff-tree printed less than announced") from None

    return PatchReader(read_block)


def _blobs(change: RawChange) -> list[str]:
    sides = ((change.old_mode, change.old_blob), (change.new_mode, change.new_blob))
    return [blob for mode, blob in sides if mode != _SUBMODULE and blob.strip("0")]
