"""Bare mirror clones of URLs and bundles, kept between runs."""

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from the_block_llm.errors import BlockError, RepositoryError, StorageError
from the_block_llm.locks.process_lock import ProcessLock
from the_block_llm.os_errors import affects_every_path, explain, os_errno
from the_block_llm.pipelines.git_ingest.git.program import clone_environment
from the_block_llm.pipelines.git_ingest.git.url_credentials import (
    credential_settings,
    without_credentials,
)

_FATAL: Final = re.compile(r"(?:remote: )?fatal: .+")
_NOT_IN_A_FILE_NAME: Final = re.compile(r"[^\w.-]+")
_MAX_NAME_CHARACTERS: Final = 80


class _Cause(NamedTuple):
    pattern: re.Pattern[str]
    """Matches what git, ssh or curl print."""
    cause: str
    remedy: str


def _cause(pattern: str, cause: str, remedy: str) -> _Cause:
    return _Cause(re.compile(pattern, re.IGNORECASE), cause, remedy)


_OWN_CLONE: Final = "or clone it yourself and pass the path"
# The first that matches holds, so what is more specific stands above.
_CAUSES: Final = (
    _cause(
        r"dubious ownership|unsafe repository",
        "the repository belongs to another user, and git does not open it for a clone",
        "Pass its path instead of a URL",
    ),
    _cause(
        r"host key verification failed|remote host identification has changed",
        "the host's key is not known to ssh, or has changed",
        f"Connect once with `ssh` and compare the key, {_OWN_CLONE}",
    ),
    _cause(
        r"could not read (?:username|password)|terminal prompts disabled|authentication failed"
        r"|permission denied \([\w,-]*(?:publickey|password|keyboard)|returned error: 40[13]"
        r"|invalid username or (?:password|token)|access denied(?! or repository)",
        "it asks for authentication or refuses it, or does not exist: hosts do not tell which",
        "Check that you have access; set up an ssh key or a credential helper, for nothing is "
        f"asked for here, {_OWN_CLONE}",
    ),
    _cause(
        r"could not resolve proxy|proxy connect|from proxy|returned error: 407",
        "the proxy cannot be used",
        "Correct http.proxy or the variable https_proxy",
    ),
    _cause(
        r"could not resolve host|unable to look up|name or service not known"
        r"|temporary failure in name resolution|nodename nor servname",
        "the host is unknown",
        "Check the spelling of the address, and the network",
    ),
    _cause(
        r"certificate|ssl_connect|ssl routines|tls (?:connect|handshake)|gnutls|schannel",
        "the connection is not trusted: the server's certificate or its encryption is refused",
        "Set http.sslCAInfo to the certificate of your organization, or correct this machine's "
        "clock",
    ),
    _cause(
        r"connection refused|no route to host|network is unreachable|failed to connect"
        r"|couldn't connect|connection reset|unable to connect|network is down",
        "the server cannot be reached",
        "Check the address with its port, the network, the proxy and the firewall",
    ),
    _cause(
        r"timed out|timeout|operation too slow|less than \d+ bytes/sec",
        "the server does not answer in time",
        f"Try again later, {_OWN_CLONE}",
    ),
    _cause(
        r"transport '[^']*' not allowed|protocol '[^']*' is not supported"
        r"|unable to find remote helper|is not a git command|cannot run ssh|ssh: not found",
        "this git cannot use the protocol of the address",
        "Use an https or ssh URL, and install what the message names",
    ),
    _cause(
        r"returned error: 429|too many requests|rate limit",
        "the server limits the number of requests",
        "Try again later",
    ),
    _cause(
        r"returned error: 5\d\d",
        "the server has an error of its own",
        f"Try again later, {_OWN_CLONE}",
    ),
    _cause(
        r"(?:repository|project)\b.*\b(?:not found|does not exist)"
        r"|does not appear to be a git repository|returned error: 404"
        r"|no such file or directory|not valid: is this a git repository|not exported"
        r"|access denied or repository",
        "there is no repository at that address, or you have no access to it",
        "Check the address: it is that of the repository itself, not of a page or folder in it",
    ),
    _cause(
        r"mismatched algorithms|unsupported object format|unknown object format",
        "the server's repository uses another object format than the stored clone, or one that "
        "this git does not know",
        "Delete the stored clone, or install a newer git",
    ),
    _cause(
        r"does not look like a v\d|unrecognized header|prerequisite commits|bad bundle"
        r"|invalid gitfile format",
        "the bundle is damaged, incomplete, or made by a newer git",
        "Check it with `git bundle verify`, and make it with `git bundle create FILE --all`",
    ),
    _cause(
        r"early eof|unexpected disconnect|rpc failed|hung up unexpectedly|invalid index-pack"
        r"|fetch-pack: (?:invalid|unexpected)|inflate|the remote end hung up",
        "the transfer was interrupted",
        f"Run again, {_OWN_CLONE}",
    ),
)  # fmt: skip
_UNKNOWN_REMEDY: Final = (
    "Check the address, the network and your access, or pass the path of an existing clone"
)


def update_mirror(url: str, name: str, clone_folder: Path) -> Path:
    """Clone ``url``, or fetch into its existing clone, and return the bare repository.

    Credentials in ``url`` are given to git, and are not stored.
    Other processes that need the same clone, such as a run in another project, wait.

    Raises:
        RepositoryError: Cloning or fetching failed.
        StorageError: The clone cannot be stored, for example because the disk is full.
    """
    settings, url = credential_settings(url), without_credentials(url)
    key = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    stem = _NOT_IN_A_FILE_NAME.sub("-", name)[:_MAX_NAME_CHARACTERS]
    target = clone_folder.absolute() / f"{stem}-{key}.git"
    try:
        clone_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot write clones to {clone_folder}: "
            f"{explain(error, 'set git_ingest.clone_folder to another folder')}"
        ) from error
    with ProcessLock(target.with_name(f".{target.name}.lock"), f"The clone {target}"):
        _update(url, settings, target)
    return target


def _update(url: str, settings: Mapping[str, str], target: Path) -> None:
    # An interrupted clone is never taken for a complete one: git clones under a temporary name,
    # which is then renamed atomically. Only the holder of the lock writes there.
    temporary = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
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
    except (git.exc.InvalidGitRepositoryError, git.exc.NoSuchPathError) as error:
        raise RepositoryError(
            f"The stored clone {target} of {url} is damaged. Delete that folder, then run again."
        ) from error
    except git.exc.GitError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise clone_error(url, str(getattr(error, "stderr", "") or error), target) from error
    if not target.exists():
        temporary.rename(target)


def clone_error(url: str, output: str, target: Path) -> BlockError:
    """Return the error that names why a clone or a fetch failed.

    Args:
        url: What was to be cloned.
        output: What git and the programs that it starts printed.
        target: The stored clone; a fetch into it failed if it exists.
    """
    action = f"Cannot {'fetch' if target.exists() else 'clone'} {url}"
    said = without_credentials(_fatal_message(output))
    # Of this machine: a line of the server begins with "remote:".
    reason = OSError("\n".join(x for x in output.splitlines() if not x.startswith("remote:")))
    cannot_store = StorageError(
        f"{action} into {target.parent}: "
        f"{explain(reason, 'set git_ingest.clone_folder to another folder')} git says: {said}."
    )
    if affects_every_path(reason):  # git calls the transfer interrupted as well
        return cannot_store
    for known in _CAUSES:
        if known.pattern.search(output):
            return RepositoryError(f"{action}: {known.cause}. {known.remedy}. git says: {said}.")
    if os_errno(reason) is not None:
        return cannot_store
    return RepositoryError(f"{action}: {said}. {_UNKNOWN_REMEDY}.")


def _fatal_message(output: str) -> str:
    """Return git's own error; git may print more after it, and GitPython adds its own text."""
    messages = _FATAL.findall(output) or output.strip().splitlines()[-1:] or ["nothing"]
    return str(messages[0]).strip().strip("'").rstrip(".")
