"""Locates the directories of a repository given as a folder, a bundle or a URL.

The layout is found by looking at files, not by asking git or GitPython: both would read the
repository's own configuration, which may include other files.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git.clone import update_mirror
from the_block_llm.pipelines.git_ingest.git.program import require_git
from the_block_llm.pipelines.git_ingest.git.url_credentials import without_credentials

_URL: Final = re.compile(r"^(?:(?:https?|ssh|git|file)://|[\w.-]+@[\w.-]+:)")
_HELPER_URL: Final = re.compile(r"^[\w+.-]+::")
_BUNDLE_HEADER: Final = b"# v"
_MAX_POINTER_FILE_BYTES: Final = 4096


@dataclass(frozen=True)
class RepositoryLocation:
    """Where a repository is on disk."""

    source: str
    """Path or URL as the user gave it, without credentials."""
    name: str
    """Short name, the ``repo`` column of every table."""
    git_dir: Path
    """Holds ``HEAD``; differs from ``common_dir`` in a linked work tree."""
    common_dir: Path
    """Holds ``objects`` and ``refs``."""

    @property
    def key(self) -> str:
        """Name of the repository's cache folder."""
        return hashlib.sha256(os.fsencode(self.common_dir)).hexdigest()[:12]


def locate(source: str, clone_folder: Path) -> RepositoryLocation:
    """Find a repository; a URL or bundle is cloned first.

    Args:
        source: Path of a work tree, of a bare repository or of a bundle, or a URL.
        clone_folder: Where clones of URLs and bundles are stored between runs.

    Raises:
        RepositoryError: The repository does not exist or cannot be reached.
    """
    require_git()
    source = str(source).strip()
    if not source or source.startswith("-"):
        raise RepositoryError(
            f"repository={source!r} is not a path or URL. Pass the folder of a git repository, "
            "a bundle or an https URL."
        )
    if _HELPER_URL.match(source):
        raise RepositoryError(
            f"repository={without_credentials(source)!r} uses a transport helper, which can run "
            "programs. Use an https, ssh or file URL, or a local path."
        )
    if _URL.match(source):
        address = without_credentials(source)
        name = re.split(r"[/:\\]", address.rstrip("/"))[-1].removesuffix(".git") or "repository"
        return _location_at(address, name, update_mirror(source, name, clone_folder))
    path = Path(source).expanduser()
    if not path.exists():
        raise RepositoryError(
            f"There is no repository at {path.absolute()}: the path does not exist. Check "
            "`repository`; a relative path is resolved from this project's folder."
        )
    if path.is_file():
        if not is_bundle(path):
            raise RepositoryError(f"{path} is a file, but not a git bundle. Pass a folder.")
        clone = update_mirror(str(path.resolve()), path.stem, clone_folder)
        return _location_at(source, path.stem, clone)
    folder = path.resolve()
    name = folder.parent.name if folder.name == ".git" else folder.name.removesuffix(".git")
    return _location_at(source, name or "repository", folder)


def is_url(source: str) -> bool:
    """Return whether ``source`` is a URL or a ``helper::address`` of git."""
    return bool(_URL.match(source) or _HELPER_URL.match(source))


def is_bundle(path: Path) -> bool:
    """Return whether the file is a git bundle."""
    with path.open("rb") as file:
        return file.read(3) == _BUNDLE_HEADER


def is_repository(folder: Path) -> bool:
    """Return whether the folder is a work tree or a bare repository, even an incomplete one."""
    return os.path.lexists(folder / ".git") or _is_git_dir(folder)


def _location_at(source: str, name: str, folder: Path) -> RepositoryLocation:
    git_dir = _find_git_dir(folder)
    if git_dir is None:
        parent = next((p for p in folder.parents if _find_git_dir(p) is not None), None)
        hint = (
            f"It is inside the repository {parent}; pass that folder."
            if parent is not None
            else "Pass a folder with a .git in it, or run `git init` and commit something."
        )
        raise RepositoryError(f"{folder} is not a git repository. {hint}")
    common_dir = git_dir
    if (git_dir / "commondir").is_file():
        common_dir = (git_dir / _first_line(git_dir / "commondir")).resolve()
    if not _is_git_dir(common_dir):
        raise RepositoryError(
            f"{folder} is a linked work tree, but its repository {common_dir} no longer exists. "
            "Pass the main repository."
        )
    return RepositoryLocation(source, name, git_dir, common_dir)


def _find_git_dir(folder: Path) -> Path | None:
    dot_git = folder / ".git"
    if dot_git.is_file():
        line = _first_line(dot_git)
        target = (folder / line.removeprefix("gitdir:").strip()).resolve()
        return target if line.startswith("gitdir:") and (target / "HEAD").exists() else None
    for candidate in (dot_git, folder):
        if _is_git_dir(candidate):
            return candidate.resolve()
    return None


def _is_git_dir(folder: Path) -> bool:
    has_refs = (folder / "refs").is_dir() or (folder / "reftable").is_dir()
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir() and has_refs


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        lines = os.fsdecode(file.read(_MAX_POINTER_FILE_BYTES)).splitlines()
    return lines[0].strip() if lines else ""
