"""From what the user names (a folder, a bundle, a URL) to a repository's folders on disk.

The layout is found by looking at files, not by asking git or GitPython: both would read the
repository's own configuration, which may name other files to include.
"""

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git.program import cloning_environment, require_git
from the_block_llm.pipelines.git_ingest.git.temp_dirs import own_name, sweep_leftovers

_URL: Final = re.compile(r"^(?:(?:https?|ssh|git|file)://|[\w.-]+@[\w.-]+:)")
_HELPER_URL: Final = re.compile(r"^[\w+.-]+::")
_BUNDLE_HEADER: Final = b"# v"
_FATAL: Final = re.compile(r"(?:remote: )?fatal: .+")
_SMALL_FILE_BYTES: Final = 4096


@dataclass(frozen=True)
class RepositorySource:
    """Where one repository lies."""

    given: str
    """As the user wrote it."""
    name: str
    """Short name, the ``repo`` column of every table."""
    git_dir: Path
    """Holds ``HEAD``; in a linked work tree not the same as ``common_dir``."""
    common_dir: Path
    """Holds ``objects`` and ``refs``."""

    @property
    def key(self) -> str:
        """Names what is kept about the repository between runs."""
        return hashlib.sha256(os.fsencode(self.common_dir)).hexdigest()[:12]


def locate(given: str, clone_folder: Path) -> RepositorySource:
    """Find the repository that ``given`` names, cloning it first where it is not on disk.

    Args:
        given: Path of a work tree, of a bare repository or of a bundle, or a URL.
        clone_folder: Where clones of URLs and bundles are kept between runs.

    Raises:
        RepositoryError: There is no such repository, or it cannot be reached.
    """
    require_git()
    given = str(given).strip()
    if not given or given.startswith("-"):
        raise RepositoryError(
            f"repository={given!r} is not a path or URL. Give the folder of a git repository, "
            "a bundle or an https URL."
        )
    if _HELPER_URL.match(given):
        raise RepositoryError(
            f"repository={given!r} asks for a transport helper, which can run programs. Use an "
            "https, ssh or file URL, or a local path."
        )
    if _URL.match(given):
        name = re.split(r"[/:\\]", given.rstrip("/"))[-1].removesuffix(".git") or "repository"
        return _open(given, name, _mirror(given, name, clone_folder))
    path = Path(given).expanduser()
    if not path.exists():
        raise RepositoryError(
            f"There is no repository at {path.absolute()}: the path does not exist. Check "
            "`repository`; a relative path starts at this project's folder."
        )
    if path.is_file():
        if not is_bundle(path):
            raise RepositoryError(f"{path} is a file, but not a git bundle. Give a folder.")
        return _open(given, path.stem, _mirror(str(path.resolve()), path.stem, clone_folder))
    folder = path.resolve()
    name = folder.parent.name if folder.name == ".git" else folder.name.removesuffix(".git")
    return _open(given, name or "repository", folder)


def is_url(given: str) -> bool:
    """True for what is fetched, or is meant to be: a URL, or git's ``helper::address``."""
    return bool(_URL.match(given) or _HELPER_URL.match(given))


def is_bundle(path: Path) -> bool:
    """True where the file is a git bundle."""
    with path.open("rb") as file:
        return file.read(3) == _BUNDLE_HEADER


def is_repository(folder: Path) -> bool:
    """True for a work tree, a linked work tree or a bare repository, whole or not."""
    return os.path.lexists(folder / ".git") or _is_git_dir(folder)


def _open(given: str, name: str, folder: Path) -> RepositorySource:
    git_dir = _git_dir_of(folder)
    if git_dir is None:
        parent = next((p for p in folder.parents if _git_dir_of(p) is not None), None)
        hint = (
            f"It lies inside the repository {parent}; give that folder."
            if parent is not None
            else "Give a folder with a .git in it, or run `git init` and commit something."
        )
        raise RepositoryError(f"{folder} is not a git repository. {hint}")
    common_dir = git_dir
    if (git_dir / "commondir").is_file():
        common_dir = (git_dir / _first_line(git_dir / "commondir")).resolve()
    if not _is_git_dir(common_dir):
        raise RepositoryError(
            f"{folder} is a linked work tree, but its repository {common_dir} is gone. Give the "
            "main repository."
        )
    return RepositorySource(given, name, git_dir, common_dir)


def _git_dir_of(folder: Path) -> Path | None:
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
        lines = os.fsdecode(file.read(_SMALL_FILE_BYTES)).splitlines()
    return lines[0].strip() if lines else ""


def _mirror(url: str, name: str, clone_folder: Path) -> Path:
    """Clone ``url`` once, afterwards only fetch what is new; returns the bare clone."""
    key = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    target = clone_folder.absolute() / f"{name}-{key}.git"
    clone_folder.mkdir(parents=True, exist_ok=True)
    # A clone that was cut off is never taken for a whole one: git makes it under another
    # name, which becomes the real one in a single step.
    sweep_leftovers(clone_folder)
    unfinished = target.with_name(own_name(target.name))
    # GitPython looks for git when it is imported, so not before we know that there is one.
    import git  # noqa: PLC0415

    try:
        if target.exists():
            clone = git.Repo(target)
            clone.git.update_environment(**cloning_environment())
            clone.git.fetch("--quiet", "--prune", "origin")
        else:
            # No template: it would put the hooks of this machine into the clone. By variable,
            # since GitPython counts the option itself as unsafe.
            environment = {**cloning_environment(), "GIT_TEMPLATE_DIR": ""}
            git.Repo.clone_from(url, unfinished, env=environment, mirror=True, quiet=True)
    except git.exc.GitError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise RepositoryError(
            f"Cannot {'fetch' if target.exists() else 'clone'} {url}: {_reason(error)}. Check "
            "the address, the network and your access, or give the path of a clone that you "
            "made yourself."
        ) from error
    if not target.exists():
        unfinished.rename(target)
    return target


def _reason(error: Exception) -> str:
    """Return why git gave up; it may go on with what followed, and GitPython adds its own."""
    said = str(getattr(error, "stderr", "") or error)
    found = _FATAL.findall(said) or said.strip().splitlines()[-1:]
    return str(found[0]).strip().strip("'").rstrip(".")
