"""Reads commits that git cannot diff because objects are missing, damaged or too large.

``git diff-tree -p`` exits at the first such object. The trees still list what changed, and the
patches of the other files are available if the unreadable ones are excluded.
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
    DiffParser,
    FilePatch,
    RawChange,
    parse_header,
)
from the_block_llm.pipelines.git_ingest.git.objects import BlobReader
from the_block_llm.pipelines.git_ingest.git.sandbox import GitProcessError, RepositorySandbox
from the_block_llm.pipelines.git_ingest.history.change_rows import changed_blobs

_BATCH_FILES: Final = 16
# Above this, detecting copies takes git longer than the patches: it loads every added or changed
# file once more. Renames are still detected.
_MAX_CHANGES_WITH_COPIES: Final = 1000
_MAX_EXCLUDED: Final = 256  # git matches each exclusion against every path of the commit
_BATCH_CHANGES: Final = 256
_BLOCK_BYTES: Final = 1 << 16
_END: Final = b"end-of-output"


def read_damaged_commit(
    sandbox: RepositorySandbox, blobs: BlobReader, sha: str
) -> tuple[CommitHeader, Iterable[FilePatch] | None]:
    """Return the header and the readable patches of one commit.

    Returns:
        Header and patches; None in place of patches if a tree object cannot be read.

    Raises:
        RepositoryError: The commit object cannot be read.
    """
    try:
        output = sandbox.check_output(
            "log", "--no-walk", "--no-show-signature", "-z", *HEADER_OPTIONS, sha
        )
        header = parse_header(output)
    except GitProcessError as error:
        raise RepositoryError(
            f"git cannot read the commit {sha} ({error.stderr or 'its output is incomplete'}). "
            "Repair the repository (`git fsck` lists the damage) or clone it again."
        ) from error
    if len(header.parents) > 1:
        return header, []
    try:
        raw = sandbox.check_output("diff-tree", "--no-commit-id", *RAW_OPTIONS, sha)
    except GitProcessError:
        return header, None
    return header, _read_patches(sandbox, blobs, sha, raw)


def has_missing_objects(sandbox: RepositorySandbox, blobs: BlobReader, sha: str) -> bool:
    """Return whether a tree or a changed blob of the commit is missing."""
    try:
        raw = sandbox.check_output("diff-tree", "--no-commit-id", *RAW_OPTIONS, sha)
    except GitProcessError:
        return True
    return bool(_unreadable_changes(blobs, raw))


def _parse_raw(raw: bytes) -> Iterator[RawChange]:
    return DiffParser(raw + _END).changes()


def _read_patches(
    sandbox: RepositorySandbox, blobs: BlobReader, sha: str, raw: bytes
) -> Iterator[FilePatch]:
    unreadable = _unreadable_changes(blobs, raw)
    n_changes = sum(1 for _ in _parse_raw(raw))
    options = ("-M",) if n_changes > _MAX_CHANGES_WITH_COPIES else ()
    done: set[bytes] = set()
    if len(unreadable) <= _MAX_EXCLUDED:
        try:
            with _PartialDiff(sandbox, sha, options, exclude=unreadable) as parser:
                # git sorts by the bytes of the path.
                missing = (FilePatch(c, b"", False, 0, 0, is_missing=True) for c in unreadable)
                readable = parser.patches(parser.changes(), b"\n" + _END)
                for patch in heapq.merge(readable, missing, key=lambda patch: patch.change.path):
                    done.update(p for p in (patch.change.path, patch.change.old_path) if p)
                    yield patch
        except GitProcessError:
            pass  # another object is damaged, which only reading it shows
        else:
            return
    remaining = (change for change in _parse_raw(raw) if change.path not in done)
    yield from _read_in_batches(sandbox, blobs, sha, remaining)


def _unreadable_changes(blobs: BlobReader, raw: bytes) -> list[RawChange]:
    """Return the changes in ``raw`` that need a missing blob."""
    unreadable = []
    for batch in _batch_changes(_parse_raw(raw), _BATCH_CHANGES):
        needed = [changed_blobs(change) for change in batch]
        sizes = iter(blobs.sizes(list(itertools.chain.from_iterable(needed))))
        unreadable += [
            change
            for change, shas in zip(batch, needed, strict=True)
            if None in [next(sizes) for _ in shas]
        ]
    return unreadable


def _read_in_batches(
    sandbox: RepositorySandbox, blobs: BlobReader, sha: str, changes: Iterator[RawChange]
) -> Iterator[FilePatch]:
    for batch in _batch_changes(changes, _BATCH_FILES):
        readable = [c for c in batch if None not in blobs.sizes(changed_blobs(c))]
        patches = {patch.change.path: patch for patch in _read_batch(sandbox, sha, readable)}
        for change in batch:
            yield patches.get(change.path) or FilePatch(change, b"", False, 0, 0, is_missing=True)


def _batch_changes(changes: Iterator[RawChange], n_changes: int) -> Iterator[list[RawChange]]:
    while batch := list(itertools.islice(changes, n_changes)):
        yield batch


class _PartialDiff(DiffParser):
    """Output of ``git diff-tree`` for one commit without some of its changes."""

    def __init__(
        self,
        sandbox: RepositorySandbox,
        sha: str,
        options: Sequence[str],
        exclude: Sequence[RawChange],
    ) -> None:
        super().__init__()
        paths = [path for c in exclude for path in (c.old_path, c.path) if path is not None]
        self._process = sandbox.start(
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
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stdout.close()
        self._process.kill()
        self._process.wait()

    def _read_block(self) -> bytes:
        block = os.read(self._stdout.fileno(), _BLOCK_BYTES)
        if block:
            return block
        if self._is_at_end or self._process.wait() != 0:
            raise GitProcessError("git diff-tree exited early")
        self._is_at_end = True
        return _END


def _read_batch(
    sandbox: RepositorySandbox, sha: str, changes: Sequence[RawChange]
) -> list[FilePatch]:
    if not changes:
        return []
    paths = [path for c in changes for path in (c.old_path, c.path) if path is not None]
    try:
        output = sandbox.check_output(
            "--literal-pathspecs", "diff-tree", "--no-commit-id", *DIFF_OPTIONS, "-M100%",
            sha, "--", *paths,
        )  # fmt: skip
    except GitProcessError:
        # One of the files is unreadable after all: read each of them separately.
        if len(changes) == 1:
            return []
        return [patch for change in changes for patch in _read_batch(sandbox, sha, [change])]
    parser = DiffParser(output + _END)
    return list(parser.patches(parser.changes(), b"\n" + _END))
