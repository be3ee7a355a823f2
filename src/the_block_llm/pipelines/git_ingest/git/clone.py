"""Bare mirror clones of URLs and bundles, kept between runs."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Final

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git.program import clone_environment
from the_block_llm.pipelines.git_ingest.git.temp_dirs import remove_stale_temp_dirs, temp_dir_name
from the_block_llm.pipelines.git_ingest.git.url_credentials import (
    credential_settings,
    without_credentials,
)

_FATAL: Final = re.compile(r"(?:remote: )?fatal: .+")


def update_mirror(url: str, name: str, clone_folder: Path) -> Path:
    """Clone ``url``, or fetch into its existing clone, and return the bare repository.

    Credentials in ``url`` are given to git, and are not stored.

    Raises:
        RepositoryError: Cloning or fetching failed.
    """
    settings, url = credential_settings(url), without_credentials(url)
    key = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    target = clone_folder.absolute() / f"{name}-{key}.git"
    clone_folder.mkdir(parents=True, exist_ok=True)
    # An interrupted clone is never taken for a complete one: git clones under a temporary name,
    # which is then renamed atomically.
    remove_stale_temp_dirs(clone_folder)
    temporary = target.with_name(temp_dir_name(target.name))
    # GitPython looks for git when it is imported: import it only after require_git.
    import git  # noqa: PLC0415

    try:
        if target.exists():
            clone = git.Repo(target)
            clone.git.update_environment(**clone_environment(), **settings)
            clone.git.fetch("--quiet", "--prune", "origin")
        else:
            # No template: it would copy this machine's hooks into the clone. Set by variable,
            # since GitPython rejects the option as unsafe.
            environment = {**clone_environment(), **settings, "GIT_TEMPLATE_DIR": ""}
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
    return target


def _fatal_message(error: Exception) -> str:
    """Return git's own error; git may print more after it, and GitPython adds its own text."""
    output = str(getattr(error, "stderr", "") or error)
    messages = _FATAL.findall(output) or output.strip().splitlines()[-1:]
    return str(messages[0]).strip().strip("'").rstrip(".")
