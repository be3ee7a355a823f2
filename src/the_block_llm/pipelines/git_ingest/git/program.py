"""The git executable and the environments it runs in."""

import functools
import os
import re
import subprocess
import sys
from typing import Final

from the_block_llm.errors import RepositoryError
from the_block_llm.os_errors import explain
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import code_digest, digest_of
from the_block_llm.source_digest import library_versions

MIN_GIT_VERSION: Final = (2, 31)  # GIT_CONFIG_COUNT, see url_credentials
"""The oldest that is tested. Before 2.28 git refuses ``extensions.objectFormat``, which the sandbox
sets, and before 2.29 it cannot read repositories with SHA-256."""
REFTABLE_GIT_VERSION: Final = (2, 45)
# Their rules are applied: to secrets, languages, encodings and in regular expressions.
_LIBRARIES: Final = ("detect-secrets", "pygments", "charset-normalizer", "google-re2", "pathspec")
_VERSION: Final = re.compile(r"git version ((\d+)\.(\d+)\S*)")
_INSTALL: Final = "Install git 2.31 or newer (https://git-scm.com/downloads), then run again."


@functools.cache
def require_git() -> str:
    """Return the version of git, for example ``2.39.5``.

    Raises:
        RepositoryError: git is not installed, cannot be run, or is too old.
    """
    try:
        completed = subprocess.run(["git", "--version"], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise RepositoryError(
            f"git is not installed or not on PATH, but is required to read repositories. {_INSTALL}"
        ) from error
    except OSError as error:
        raise RepositoryError(f"git cannot be run: {explain(error)} {_INSTALL}") from error
    printed = completed.stdout.decode("utf-8", "replace").strip()
    match = _VERSION.search(printed)
    if completed.returncode != 0 or match is None:
        reason = completed.stderr.decode("utf-8", "replace").strip() or printed or "nothing"
        raise RepositoryError(
            f"`git --version` printed no version, but: {reason.splitlines()[0]}. {_INSTALL}"
        )
    if parse_version(match[1]) < MIN_GIT_VERSION:
        raise RepositoryError(
            f"git {match[1]} is too old: it cannot read repositories the way this program does. "
            f"{_INSTALL}"
        )
    return match[1]


def parse_version(version: str) -> tuple[int, int]:
    """Return major and minor number of a version that :func:`require_git` returned.

    >>> parse_version("2.45.1.windows.1"), parse_version("2.51.GIT")
    ((2, 45), (2, 51))
    """
    major, minor = version.split(".")[:2]
    return int(major), int(re.match(r"\d+", minor)[0])  # type: ignore[index]


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
        # A server that sends nothing for ten minutes does not keep the run for ever.
        "GIT_HTTP_LOW_SPEED_LIMIT": "1",
        "GIT_HTTP_LOW_SPEED_TIME": "600",
        "LC_ALL": "C",
    }


@functools.cache
def tools_digest() -> str:
    """Return a digest of this code, git, Python and libraries; part of the name of every shard."""
    libraries = library_versions(_LIBRARIES)
    return digest_of(code_digest(), require_git(), sys.version_info[:2], libraries)
