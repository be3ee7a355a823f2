"""Locates the directories of a repository given as a folder, a bundle or a URL.

The layout is found by looking at files, not by asking git or GitPython: both would read the
repository's own configuration, which may include other files.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from the_block_llm.errors import RepositoryError
from the_block_llm.os_errors import explain
from the_block_llm.pipelines.git_ingest.git.clone import update_mirror
from the_block_llm.pipelines.git_ingest.git.program import require_git
from the_block_llm.pipelines.git_ingest.git.url_credentials import without_credentials

# Two letters at least: C://folder is a path of Windows.
_SCHEME: Final = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_SCP_ADDRESS: Final = re.compile(r"^[\w.-]+@[\w.-]+:")
_HELPER_URL: Final = re.compile(r"^[\w+.-]+::")
_SCHEMES: Final = ("https", "http", "ssh", "git", "file")
# As package managers write them. git knows the first two, but warns of them.
_SCHEME_ALIASES: Final = {
    "git+ssh": "ssh", "ssh+git": "ssh", "git+https": "https", "git+http": "http",
    "git+file": "file",
}  # fmt: skip
_BUNDLE_HEADER: Final = re.compile(rb"# v\d+ git bundle\r?\n")
_MAX_POINTER_FILE_BYTES: Final = 4096
_ARCHIVES: Final = (
    (re.compile(rb"PK\x03\x04|PK\x05\x06"), "zip"),
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"BZh\d"), "bzip2"),
    (re.compile(rb"\xfd7zXZ\0"), "xz"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "7z"),
    (re.compile(rb"(?s).{257}ustar"), "tar"),
)
# What a path that does not exist may have been meant as.
_MEANT: Final = (
    (re.compile(r"^([a-z]):[\\/](.*)$", re.IGNORECASE),
     "It is a path of Windows; under WSL that drive is /mnt/{drive}."),
    (re.compile(r"^[\w-]+(?:\.[\w-]+)+/[\w.~-]+/[\w./~-]+$"),
     "If it is an address, write https://{source}."),
    (re.compile(r"^[\w-]+/[\w.-]+$"),
     "If it is a repository on GitHub, write https://github.com/{source}."),
    (re.compile(r"^[\w.-]+:[^\\]"),
     "If it is an address for ssh, write user@{source}."),
)  # fmt: skip


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
        StorageError: The clone cannot be stored.
    """
    require_git()
    found = _find_source(source)
    if isinstance(found, str):
        address = without_credentials(found)
        name = re.split(r"[/:\\]", address.rstrip("/"))[-1].removesuffix(".git") or "repository"
        return _location_at(source, name, update_mirror(found, name, clone_folder))
    if found.is_file():
        clone = update_mirror(str(found.resolve()), found.stem, clone_folder)
        return _location_at(source, found.stem, clone)
    return _location_at(source, _name_of(found), found)


def check_source(source: str) -> None:
    """Check a repository as far as that is possible without cloning it.

    Raises:
        RepositoryError: There is no repository at that path, or it is not an address that git may
            be given.
    """
    found = _find_source(source)
    if isinstance(found, Path) and found.is_dir():
        _location_at(source, _name_of(found), found)


def is_url(source: str) -> bool:
    """Return whether ``source`` is a URL, an address for ssh or a ``helper::address`` of git."""
    if _SCHEME.match(source):
        return True
    # Like git: a folder of that name comes first.
    return bool(_SCP_ADDRESS.match(source) or _HELPER_URL.match(source)) and not os.path.lexists(
        source
    )


def is_bundle(path: Path) -> bool:
    """Return whether the file is a git bundle."""
    return _BUNDLE_HEADER.match(_first_bytes(path)) is not None


def is_repository(folder: Path) -> bool:
    """Return whether the folder is a work tree or a bare repository, even an incomplete one."""
    return os.path.lexists(folder / ".git") or _is_git_dir(folder)


def expand_user(source: str) -> Path:
    """Return ``source`` as a path, with ``~`` replaced by the home folder.

    Raises:
        RepositoryError: There is no user of the name behind ``~``.
    """
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise RepositoryError(
            f"repository={source!r}: {error}: there is no user of that name. Write the path out, "
            "or ./ before it if the name of the folder begins with ~."
        ) from error


def _find_source(source: str) -> str | Path:
    """Return the URL, or the path of an existing folder or bundle."""
    source = str(source).strip()
    if not source or source.startswith("-"):
        raise RepositoryError(
            f"repository={source!r} is not a path or URL. Pass the folder of a git repository, "
            "a bundle or an https URL."
        )
    if is_url(source):
        return _checked_url(source)
    path = expand_user(source)
    with _reading(path):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, ValueError) as error:
            raise RepositoryError(_missing_message(source, path)) from error
        if stat.S_ISDIR(mode):
            return path.resolve()
        if not stat.S_ISREG(mode):
            raise RepositoryError(
                f"{path} is neither a folder nor a file, but a device, pipe or socket. Pass the "
                "folder of a git repository."
            )
        if is_bundle(path):
            return path
        if path.name == ".git" and _first_line(path).startswith("gitdir:"):
            return path.parent.resolve()
        raise RepositoryError(_file_message(path))


def _checked_url(source: str) -> str:
    if _HELPER_URL.match(source):
        raise RepositoryError(
            f"repository={without_credentials(source)!r} uses a transport helper, which can run "
            "programs. Use an https, ssh or file URL, or a local path."
        )
    match = _SCHEME.match(source)
    if match is None:
        return source
    scheme = _SCHEME_ALIASES.get(match[1].lower(), match[1].lower())
    if scheme not in _SCHEMES:
        raise RepositoryError(
            f"repository={without_credentials(source)!r}: repositories cannot be read by "
            f"{match[1]}. Use one of {', '.join(_SCHEMES)}, or a local path."
        )
    return f"{scheme}{source[match.end(1) :]}"


def _missing_message(source: str, path: Path) -> str:
    if path.is_symlink():
        return (
            f"There is no repository at {path.absolute()}: it is a symbolic link to "
            f"{path.readlink()}, and that path does not exist. Correct the link."
        )
    for pattern, hint in _MEANT:
        if match := pattern.match(source):
            meant = hint.format(source=source, drive=match[1].lower() if match.groups() else "")
            break
    else:
        meant = "Check `repository`; a relative path is resolved from this project's folder."
    shown = str(path.absolute())
    if not shown.isprintable():
        shown = ascii(shown)
    return f"There is no repository at {shown}: the path does not exist. {meant}"


def _file_message(path: Path) -> str:
    head = _first_bytes(path)
    if not head:
        return f"{path} is an empty file. Pass the folder of a git repository, or a bundle."
    for pattern, kind in _ARCHIVES:
        if pattern.match(head):
            return (
                f"{path} is a file, but not a git bundle: it is a {kind} archive. Unpack it, and "
                "pass the folder with the .git in it."
            )
    return (
        f"{path} is a file, but not a git bundle. Pass a folder; a text file that lists "
        "repositories goes into the parameter `repositories`."
    )


def _name_of(folder: Path) -> str:
    name = folder.parent.name if folder.name == ".git" else folder.name.removesuffix(".git")
    return name or "repository"


def _location_at(source: str, name: str, folder: Path) -> RepositoryLocation:
    with _reading(folder):
        git_dir = _find_git_dir(folder)
        if git_dir is None:
            raise RepositoryError(_no_repository_message(folder))
        common_dir = git_dir
        if (git_dir / "commondir").is_file():
            common_dir = (git_dir / _first_line(git_dir / "commondir")).resolve()
        if not _is_git_dir(common_dir):
            raise RepositoryError(
                f"{folder} is a linked work tree, but its repository {common_dir} no longer "
                "exists. Pass the main repository."
            )
    # Names of folders may hold any bytes; those of tables and reports are UTF-8.
    shown, name = (os.fsencode(text).decode("utf-8", "replace") for text in (source, name))
    return RepositoryLocation(without_credentials(shown), name, git_dir, common_dir)


def _no_repository_message(folder: Path) -> str:
    dot_git = folder / ".git"
    if dot_git.is_file():
        line = _first_line(dot_git)
        if not line.startswith("gitdir:"):
            return (
                f"{dot_git} is a file that names no git directory (`gitdir: PATH`), so {folder} is "
                "not a git repository. Restore the file, or clone the repository again."
            )
        return (
            f"{folder} is a linked work tree or a submodule, but its git directory "
            f"{_pointed_at(dot_git)} no longer exists or is no git directory. Pass the main "
            "repository; there, `git worktree repair` or `git submodule update --init` mends it."
        )
    if dot_git.is_dir():
        parts = [name for name in ("HEAD", "objects", "refs") if not (dot_git / name).exists()]
        lacking = ", ".join(parts) or "a HEAD that is a file"
        return (
            f"{dot_git} is not a complete git directory: it lacks {lacking}. Restore it from a "
            "backup, or clone the repository again; copies that leave out empty folders lose refs, "
            "which `mkdir` brings back."
        )
    parent = next((p for p in folder.parents if _find_git_dir(p) is not None), None)
    if parent is not None:
        return f"{folder} is not a git repository. It is inside the repository {parent}; pass that."
    empty = "" if any(folder.iterdir()) else ", but an empty folder"
    return (
        f"{folder} is not a git repository{empty}. Pass a folder with a .git in it, or run "
        "`git init` and commit something."
    )


def _find_git_dir(folder: Path) -> Path | None:
    dot_git = folder / ".git"
    if dot_git.is_file():
        target = _pointed_at(dot_git)
        is_pointer = _first_line(dot_git).startswith("gitdir:")
        return target if is_pointer and (target / "HEAD").exists() else None
    for candidate in (dot_git, folder):
        if _is_git_dir(candidate):
            return candidate.resolve()
    return None


def _pointed_at(dot_git: Path) -> Path:
    """Return the git directory that a ``.git`` file names."""
    return (dot_git.parent / _first_line(dot_git).removeprefix("gitdir:").strip()).resolve()


def _is_git_dir(folder: Path) -> bool:
    has_refs = (folder / "refs").is_dir() or (folder / "reftable").is_dir()
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir() and has_refs


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_POINTER_FILE_BYTES)


def _first_line(path: Path) -> str:
    lines = os.fsdecode(_first_bytes(path)).splitlines()
    return lines[0].strip() if lines else ""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        shown = error.filename or path
        text = str(shown) if len(str(shown)) < 300 else f"{str(shown)[:300]}…"
        raise RepositoryError(f"{text} cannot be read: {explain(error)}") from error
