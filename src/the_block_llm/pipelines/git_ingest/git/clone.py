"""Bare mirror clones of URLs and bundles, kept between runs."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Final

from the_block_llm.errors import RepositoryError
from the_block_llm.locks.process_lock import ProcessLock
from the_block_llm.pipelines.git_ingest.git.program import clone_environment

_FATAL: Final = re.compile(r"(?:remote: )?fatal: .+")


def update_mirror(url: str, name: str, clone_folder: Path) -> Path:
    """Clone ``url``, or fetch into its existing clone, and return the bare repository.

    Other processes that need the same clone, such as a run in another project, wait.

    Raises:
        RepositoryError: Cloning or fetching failed.
    """
    key = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    target = clone_folder.absolute() / f"{name}-{key}.git"
    with ProcessLock(target.with_name(f".{target.name}.lock"), f"The clone {target}"):
        _update(url, target)
    return target


def _update(url: str, target: Path) -> None:
    # An interrupted clone is never taken for a complete one: git clones under a temporary name,
    # which is then renamed atomically. Only the holder of the lock writes there.
    temporary = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    # GitPython looks for git when it is imported: import it only after require_git.
    import git  # noqa: PLC0415

    try:
        if target.exists():
            clone = git.Repo(target)
            clone.git.update_environment(**clone_environment())
            clone.git.fetch("--quiet", "--prune", "origin")
        else:
            # No template: it would copy this machine's hooks into the clone. Set by variable,
            # since GitPython rejects the option as unsafe.
            environment = {**clone_environment(), "GIT_TEMPLATE_DIR": ""}
            git.Repo.clone_from(url, temporary, env=environment, mirror=True, quiet=True)
    except git.exc.GitError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RepositoryError(
            f"Cannot {'fetch' if target.exists() else 'clone'} {url}: {_fatal_message(error)}. "
            "Check the address, the network and your access, or pass the path of an existing "
            "clone."
        ) from error
    if not target.exists():
        temporary.rename(target)


def _fatal_message(error: Exception) -> str:
    """Return git's own error; git may print more after it, and GitPython adds its own text."""
    output = str(getattr(error, "stderr", "") or error)
    messages = _FATAL.findall(output) or output.strip().splitlines()[-1:]
    return str(messages[0]).strip().strip("'").rstrip(".")
