"""The git executable and the environments it is run in."""

import functools
import os
import subprocess

from the_block_llm.errors import RepositoryError


@functools.cache
def require_git() -> str:
    """Return git's version, for example ``2.39.5``.

    Raises:
        RepositoryError: There is no git.
    """
    try:
        done = subprocess.run(["git", "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RepositoryError(
            "git cannot be run. Install git 2.30 or newer and make sure it is on the PATH."
        ) from error
    return done.stdout.decode("ascii", "replace").split()[2]


def _without_git_variables() -> dict[str, str]:
    # GIT_DIR and its like are set inside hooks, GIT_EXTERNAL_DIFF names a program to run.
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def reading_environment(
    git_dir: os.PathLike[str] | str, max_allocation_bytes: int
) -> dict[str, str]:
    """Environment in which git sees ``git_dir`` and no configuration but the one in it."""
    return _without_git_variables() | {
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
        # A blob that unpacks to gigabytes ends that one git process, not the machine.
        "GIT_ALLOC_LIMIT": str(max_allocation_bytes),
        "LC_ALL": "C",
    }


def cloning_environment() -> dict[str, str]:
    """Environment for talking to a remote: the user's own set-up, without helpers or prompts."""
    return _without_git_variables() | {
        "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_PROTOCOL_FROM_USER": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "LC_ALL": "C",
    }
