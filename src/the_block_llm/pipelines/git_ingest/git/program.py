"""The git executable and the environments it runs in."""

import functools
import os
import subprocess

from the_block_llm.errors import RepositoryError


@functools.cache
def require_git() -> str:
    """Return the version of git, for example ``2.39.5``.

    Raises:
        RepositoryError: git is not installed.
    """
    try:
        completed = subprocess.run(["git", "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RepositoryError(
            "git cannot be run. Install git 2.30 or newer and make sure it is on the PATH."
        ) from error
    return completed.stdout.decode("ascii", "replace").split()[2]


def _environ_without_git_variables() -> dict[str, str]:
    # Hooks inherit GIT_DIR and similar variables; GIT_EXTERNAL_DIFF names a program to run.
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def sandbox_environment(
    git_dir: os.PathLike[str] | str, max_allocation_bytes: int
) -> dict[str, str]:
    """Return an environment in which git uses ``git_dir`` and only the configuration in it."""
    return _environ_without_git_variables() | {
        "GIT_DIR": str(git_dir),
        "HOME": str(git_dir),
        "XDG_CONFIG_HOME": str(git_dir),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_GRAFT_FILE": os.devnull,
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_PAGER": "cat",
        # A blob that inflates to gigabytes ends one git process instead of exhausting memory.
        "GIT_ALLOC_LIMIT": str(max_allocation_bytes),
        "LC_ALL": "C",
    }


def clone_environment() -> dict[str, str]:
    """Return an environment for remotes: the user's configuration, without helpers or prompts."""
    return _environ_without_git_variables() | {
        "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_PROTOCOL_FROM_USER": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "LC_ALL": "C",
    }
