"""Symbolic links in a git folder that lead out of it: git would follow them and read there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git.repository import RepositorySource

# All that is read of a git folder.
_READ: Final = ("objects", "refs", "reftable", "packed-refs", "shallow", "config")


def refuse_links_outside(source: RepositorySource) -> None:
    """Make sure that what is read of ``source`` lies in its own folders.

    Raises:
        RepositoryError: A link leads elsewhere.
    """
    homes = (source.common_dir.resolve(), source.git_dir.resolve())
    starts = [source.git_dir / "HEAD", *(source.common_dir / name for name in _READ)]
    for link in (link for start in starts for link in _links(start)):
        target = Path(os.path.realpath(link))
        if not any(target.is_relative_to(home) for home in homes):
            raise RepositoryError(
                f"{link} is a link to {target}, outside the repository, where nothing is read. "
                "Give the repository that it points to, or set git_ingest.follow_alternates to "
                "true if you trust this one."
            )


def _links(start: Path) -> Iterator[str]:
    """Yield the links at and below ``start``, without going through any."""
    if start.is_symlink():
        yield str(start)
    elif start.is_dir():
        folders = [str(start)]
        while folders:
            # What we may not list, git may not read.
            with contextlib.suppress(PermissionError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        yield entry.path
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
