"""Names the cause of an error of the operating system, and the remedy.

The one place that knows what an errno means: a full disk is called full, and nothing else is.
"""

import errno
import os
import re
from collections.abc import Iterator
from typing import Final, NamedTuple


class _Reason(NamedTuple):
    cause: str
    remedy: str
    is_environment: bool = True
    """The machine or its file systems are the cause, not a name that the program got wrong."""
    affects_all: bool = False
    """Any other operation would fail as well, whatever its path."""


# By name: not every system has every errno.
_REASONS: Final = {
    "ENOSPC": _Reason("no space is left on the disk", "free some space", affects_all=True),
    "EDQUOT": _Reason(
        "the disk quota is used up", "free some space or have the quota raised", affects_all=True
    ),
    "EROFS": _Reason(
        "the file system is mounted read-only", "mount it for writing", affects_all=True
    ),
    "EACCES": _Reason(
        "permission is denied", "change the permissions or the owner, or run as that user"
    ),
    "EPERM": _Reason(
        "the operation is not permitted (an immutable file, or a restricted mount)",
        "change the file's attributes or the options of the mount",
    ),
    "EMFILE": _Reason(
        "too many files are open in this process",
        "raise the limit (`ulimit -n 4096`)",
        affects_all=True,
    ),
    "ENFILE": _Reason(
        "too many files are open on this machine", "close other programs", affects_all=True
    ),
    "ENOMEM": _Reason("memory is exhausted", "close other programs", affects_all=True),
    "ENAMETOOLONG": _Reason("the path is too long for the file system", "use a shorter path"),
    "ENOTDIR": _Reason(
        "a part of the path is a file, not a folder", "rename that file or correct the path"
    ),
    "EISDIR": _Reason("it is a folder, not a file", "rename that folder or correct the path"),
    "ENOENT": _Reason("it does not exist", "create it or correct the path", is_environment=False),
    "EEXIST": _Reason("it exists already", "rename or remove it", is_environment=False),
    "ENOTEMPTY": _Reason(
        "the folder is not empty", "stop other programs that write to it", is_environment=False
    ),
    "ELOOP": _Reason("symbolic links lead in a circle", "correct the links"),
    "EIO": _Reason(
        "the disk reports an input/output error", "check the disk and the system's log (`dmesg`)"
    ),
    "EUCLEAN": _Reason("the file system is damaged", "check it (`fsck`)"),
    "ESTALE": _Reason("the network file system has lost the file (stale handle)", "mount it again"),
    "ENOTCONN": _Reason("the mounted file system has lost its connection", "mount it again"),
    "ENODEV": _Reason("the device is not there", "connect and mount it again"),
    "ENXIO": _Reason("the device is not there", "connect and mount it again"),
    "EHOSTDOWN": _Reason("the other machine is down", "check the network"),
    "EHOSTUNREACH": _Reason("the other machine cannot be reached", "check the network"),
    "ENETUNREACH": _Reason("the network cannot be reached", "check the network"),
    "ETIMEDOUT": _Reason("the file server or the network does not respond", "check the network"),
    "ECONNREFUSED": _Reason("the connection is refused", "check that the server runs"),
    "ECONNRESET": _Reason("the connection was closed", "check the network"),
    "EREMOTEIO": _Reason("the file server reports an input/output error", "check the file server"),
    "EBUSY": _Reason("another program uses it", "close that program"),
    "ETXTBSY": _Reason("another program runs it", "close that program"),
    "EFBIG": _Reason(
        "the file is larger than the file system or `ulimit -f` permits",
        "use another file system or raise the limit",
    ),
    "EXDEV": _Reason(
        "source and target are on different file systems", "use a folder on the same one"
    ),
    "EMLINK": _Reason("the file has too many links", "use another folder"),
    "EILSEQ": _Reason("the file system does not accept the characters of the name", "rename it"),
    "EINVAL": _Reason(
        "the file system does not accept the name or the operation",
        "use another name or file system",
        is_environment=False,
    ),
    "ENOTSUP": _Reason("the file system does not support it", "use another file system"),
    "EOPNOTSUPP": _Reason("the file system does not support it", "use another file system"),
    "ENOSYS": _Reason("the system does not support it", "use another file system"),
    "ENOLCK": _Reason("the file system grants no locks", "use a local disk"),
    "ENOKEY": _Reason("the folder is encrypted and locked", "unlock it"),
    "EINTR": _Reason("a signal interrupted it", "run again"),
    "EAGAIN": _Reason(
        "the system lacks resources at the moment (processes, or locked files)",
        "close other programs",
    ),
    "EADDRINUSE": _Reason("another program uses the address", "choose another port"),
    "EADDRNOTAVAIL": _Reason("the address is not one of this machine", "choose another address"),
}
_BY_NUMBER: Final = {
    number: reason
    for name, reason in _REASONS.items()
    if (number := getattr(errno, name, None)) is not None
}
_BY_TEXT: Final = {
    os.strerror(number): number for number, reason in _BY_NUMBER.items() if reason.is_environment
}
# Libraries in Rust print the number; the others, the system's text for it.
_RUST_ERRNO: Final = re.compile(r"\(os error (\d+)\)")


def os_errno(error: BaseException) -> int | None:
    """Return the errno behind ``error``, None if the operating system is not its cause.

    Libraries wrap it in errors of their own: it is looked for in the errors that caused this one,
    and in the text.

    >>> os_errno(OSError(28, "No space left on device"))
    28
    >>> os_errno(RuntimeError("I/O error: No space left on device (os error 28)"))
    28
    """
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _BY_NUMBER:
            return cause.errno
        text = str(cause)
        if (match := _RUST_ERRNO.search(text)) and int(match[1]) in _BY_NUMBER:
            return int(match[1])
        for reason, number in _BY_TEXT.items():
            if reason in text:
                return number
    return None


def cause_of(error: BaseException) -> str:
    """Return what happened, without a full stop: the cause, and the system's own text.

    >>> cause_of(OSError(28, "No space left on device"))
    'no space is left on the disk (No space left on device)'
    """
    number = os_errno(error)
    if number is None:
        return _first_line(error)
    return f"{_BY_NUMBER[number].cause} ({os.strerror(number)})"


def explain(error: BaseException, alternative: str = "") -> str:
    """Return the cause and the remedy as two sentences, the first without its beginning.

    Args:
        error: An error of the operating system, or one that wraps it.
        alternative: What helps as well, such as another value of a parameter.

    >>> explain(OSError(30, "Read-only file system"))
    'the file system is mounted read-only (Read-only file system). Mount it for writing.'
    """
    number = os_errno(error)
    remedies = [_BY_NUMBER[number].remedy] if number is not None else []
    remedies += [alternative] if alternative else []
    remedy = ", or ".join(remedies) or "correct what the message names, then run again"
    return f"{cause_of(error).rstrip('.')}. {remedy[0].upper()}{remedy[1:]}."


def is_environment_error(error: BaseException) -> bool:
    """Return whether the machine or a file system is the cause: the user's to fix."""
    number = os_errno(error) if isinstance(error, OSError) else None
    return number is not None and _BY_NUMBER[number].is_environment


def affects_every_path(error: BaseException) -> bool:
    """Return whether the same error would meet any other file: a full disk, no open files left."""
    number = os_errno(error)
    return number is not None and _BY_NUMBER[number].affects_all


def path_of(error: BaseException) -> str | None:
    """Return the path that the operating system was asked for, if the error knows it."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _BY_NUMBER:
            name = cause.filename2 or cause.filename
            return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else None
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        context = None if cause.__suppress_context__ else cause.__context__
        cause = cause.__cause__ or context


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
