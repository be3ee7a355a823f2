"""Exclusive locks between processes, on one machine or on several that share a file system.

A lock is one of the operating system on a file, never the existence of the file: that of a killed
process is free at once. It reaches other hosts where the locks of the file system do: NFS with a
lock service, GPFS, Lustre mounted with ``flock``. A record of the owner next to the lock file tells
those who wait for whom.
"""

import errno
import json
import logging
import os
import platform
import re
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final

from filelock import BaseFileLock, FileLock, Timeout

from the_block_llm.errors import InUseError

NO_LOCKS: Final = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
"""Error numbers of file systems without locks."""
_log = logging.getLogger(__name__)
_REPORT_INTERVAL_S: Final = 30.0  # while waiting
_POLL_S: Final = 0.1
_USER_INFO: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@dataclass(frozen=True)
class LockOwner:
    """The process that holds a lock."""

    host: str
    pid: int
    command: str
    thread: int
    """Identifier of its thread, as ``threading.get_ident`` returns it."""
    started: str
    """When it got the lock: UTC, ISO 8601."""

    def __str__(self) -> str:
        started = datetime.fromisoformat(self.started)
        seconds = max(0.0, (datetime.now(UTC) - started).total_seconds())
        duration = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
        return (
            f"`{self.command}` (process {self.pid} on {self.host}, since "
            f"{started.astimezone():%H:%M:%S}, for {duration})"
        )


def current_process() -> LockOwner:
    """Describe this process as an owner; secrets in URLs of its command line are masked."""
    program = Path(sys.argv[0] or "python").name
    if "ipykernel" in program:
        command = "a notebook"
    else:
        command = _USER_INFO.sub("***", " ".join([program, *sys.argv[1:]]))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return LockOwner(host_name(), os.getpid(), command, threading.get_ident(), started)


def read_owner(lock_file: Path) -> LockOwner | None:
    """Return the recorded owner of a lock; None if there is no readable record."""
    try:
        owner = LockOwner(**json.loads(_record_of(lock_file).read_text(encoding="utf-8")))
        datetime.fromisoformat(owner.started)
    except (OSError, ValueError, TypeError):
        return None
    return owner


class ProcessLock:
    """Exclusive lock on something that one process at a time may change.

    Use it as a context manager, which waits as long as necessary, or by :meth:`acquire` and
    :meth:`release`. Does not nest: a second lock on the same file waits, also in this process.
    """

    def __init__(
        self,
        path: Path,
        subject: str,
        remedy: str = "Wait for it, or stop it.",
        *,
        takes_over: bool = False,
    ) -> None:
        """Create the lock without acquiring it.

        Args:
            path: Lock file; created if necessary, never removed.
            subject: What is locked, as the subject of a message.
            remedy: What to do if it is in use.
            takes_over: Take the lock from an earlier holder in the same thread, or in one that has
                ended: it was interrupted, as a cell of a notebook is, and did not release it.
        """
        self._path = path
        self._subject = subject
        self._remedy = remedy
        self._takes_over = takes_over
        self._lock: BaseFileLock | None = None
        self._holder_pid: int | None = None

    def __enter__(self) -> "ProcessLock":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self, timeout_s: float | None = None) -> None:
        """Wait for the lock; reports who holds it at once and every half minute.

        Args:
            timeout_s: How long to wait; None: without limit.

        Raises:
            InUseError: Another process holds the lock, and still did after ``timeout_s``.
            OSError: The lock file cannot be created.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever may write to the folder may lock it: it can belong to a group.
        mode = self._path.parent.stat().st_mode & 0o666
        # Released by whichever thread ends the work. A singleton outlives a reload of this
        # package's modules in a notebook.
        lock = FileLock(
            self._path, mode=mode, thread_local=False, is_singleton=self._takes_over,
            fallback_to_soft=False,
        )  # fmt: skip
        self._lock = lock
        start = time.monotonic()
        pause_s = 0.0
        while not self._try(lock, pause_s):
            waited_s = time.monotonic() - start
            owner = read_owner(self._path) or "another process"
            if timeout_s is not None and waited_s >= timeout_s:
                waited = f", also after waiting {waited_s:,.0f} s" if timeout_s else ""
                raise InUseError(f"{self._subject} is in use by {owner}{waited}. {self._remedy}")
            _log.warning(
                "%s: %s is in use by %s. Ctrl-C stops waiting.",
                f"Still waiting, for {waited_s:,.0f} s" if pause_s else "Waiting",
                self._subject, owner, extra={"markup": False},
            )  # fmt: skip
            remaining_s = _REPORT_INTERVAL_S if timeout_s is None else timeout_s - waited_s
            pause_s = min(_REPORT_INTERVAL_S, remaining_s)
        self._holder_pid = os.getpid()
        try:
            self._record_owner()
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock; does nothing if it is not held, as in a forked child of its holder."""
        if self._lock is not None and self._holder_pid == os.getpid():
            self._holder_pid = None
            _record_of(self._path).unlink(missing_ok=True)
            self._lock.release()

    def _try(self, lock: BaseFileLock, timeout_s: float) -> bool:
        if lock.is_locked:  # only a singleton can be
            owner = read_owner(self._path)
            others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
            if owner is not None and owner.thread in others:
                time.sleep(timeout_s)
                return False
            lock.release(force=True)
        try:
            lock.acquire(timeout=timeout_s, poll_interval=_POLL_S)
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _log.warning(
                "The file system of %s has no locks (%s): nothing keeps another process from "
                "changing the same files now.", self._path.parent, error, extra={"markup": False},
            )  # fmt: skip
        return True

    def _record_owner(self) -> None:
        process = current_process()
        former = read_owner(self._path)
        if former is not None and former.host != process.host:
            _log.warning(
                "%s was last in use by %s, which has not reported its end. If it was not killed "
                "and still runs, the locks of this file system do not reach other hosts: stop one "
                "of the two.", self._subject, former, extra={"markup": False},
            )  # fmt: skip
        record = _record_of(self._path)
        temporary = record.with_name(f"{record.name}.{uuid.uuid4().hex}")
        temporary.write_text(json.dumps(asdict(process)), encoding="utf-8")
        temporary.replace(record)


def _record_of(lock_file: Path) -> Path:
    return lock_file.with_name(f"{lock_file.name}.owner")


def host_name() -> str:
    """Return the name of this machine, as part of a file name."""
    return re.sub(r"[^\w.-]", "_", platform.node() or "localhost")
