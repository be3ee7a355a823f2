"""Lease of a folder in an object store, which has no locks.

The lease is an object that its owner renews every few seconds. If it is not renewed for some time,
as measured by the clock of the one who waits, its owner was killed or cannot reach the store, and
another process takes it over; the former owner stops before it writes again.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from the_block_llm.datasets.object_store import StorePath
from the_block_llm.errors import InUseError, StorageError
from the_block_llm.locks.process_lock import LockOwner, current_process

_log = logging.getLogger(__name__)
_LEASE_OBJECT: Final = ".run.json"
_RENEWAL_S: Final = 5.0
_EXPIRY_S: Final = 60.0
_POLL_S: Final = 1.0
# Stores without conditional writes let two processes create the object: the last one wins, and
# each reads it again after this time.
_SETTLING_S: Final = 1.0


class StoreLease:
    """Exclusive lease of a folder in an object store."""

    def __init__(self, folder: StorePath, remedy: str) -> None:
        """Create the lease without acquiring it.

        Args:
            folder: The folder.
            remedy: What to do if it is in use.
        """
        self._folder = folder
        self._object = folder / _LEASE_OBJECT
        self._remedy = remedy
        self._token = uuid.uuid4().hex
        self._owner = ""
        self._n_renewals = 0
        self._is_lost = False
        self._has_written = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, timeout_s: float) -> None:
        """Wait for the lease, and renew it from then on.

        Args:
            timeout_s: How long to wait for an owner that renews it. One that does not is waited
                for until its lease expires, in any case.

        Raises:
            InUseError: Another process still held the lease after this time.
            StorageError: The store cannot be reached, or does not allow writing.
        """
        self._owner = json.dumps(asdict(current_process()))
        start = seen_at = time.monotonic()
        last_seen = self._read()
        if last_seen is not None and _stop_renewal_here(last_seen["token"]):
            # Of an interrupted run of this notebook: the lock of ``data`` excludes any other.
            seen_at -= 2 * _EXPIRY_S
        elif last_seen is not None:
            _log.warning(
                "Waiting: %s is in use by %s. Ctrl-C stops waiting.",
                self._folder, _describe(last_seen), extra={"markup": False},
            )  # fmt: skip
        has_renewed = False
        while not self._take(is_expired=time.monotonic() - seen_at > _EXPIRY_S):
            if has_renewed and time.monotonic() - start >= timeout_s:
                raise InUseError(
                    f"{self._folder} is in use by {_describe(last_seen)}. {self._remedy}"
                )
            time.sleep(_POLL_S)
            seen = self._read()
            if seen != last_seen:
                has_renewed = has_renewed or last_seen is not None
                last_seen, seen_at = seen, time.monotonic()
        self._thread = _RenewalThread(self._token, self._renew, self._stop)
        self._thread.start()

    def check(self) -> None:
        """Check that the lease is still held.

        Raises:
            InUseError: Another process has taken it over.
            StorageError: The store cannot be reached.
        """
        current = self._read()
        if self._is_lost or current is None or current["token"] != self._token:
            self._is_lost = True
            raise InUseError(
                f"{self._folder} was taken over by {_describe(current)}, because this run did not "
                f"reach the store for {_EXPIRY_S:.0f} s. Wait for it to end, then run again; "
                "finished work is kept."
            )

    def release(self) -> None:
        """Stop renewing the lease, and remove it."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        if not self._has_written:
            return
        self._has_written = False
        try:
            current = self._read()
            if current is not None and current["token"] == self._token:
                self._object.unlink()
        except StorageError as error:
            # It expires by itself.
            _log.warning("%s", error, extra={"markup": False})

    def _take(self, *, is_expired: bool) -> bool:
        self._has_written = True
        if is_expired:
            self._object.put_bytes(self._record())
        elif not self._object.put_new_bytes(self._record()):
            return False
        time.sleep(_SETTLING_S)
        current = self._read()
        return current is not None and current["token"] == self._token

    def _renew(self) -> None:
        while not self._stop.wait(_RENEWAL_S):
            try:
                current = self._read()
                if current is None or current["token"] != self._token:
                    self._is_lost = True
                    return
                self._n_renewals += 1
                self._object.put_bytes(self._record())
            except StorageError as error:
                # Retried; a write of the run fails too if the store stays unreachable.
                _log.debug("%s", error, extra={"markup": False})

    def _record(self) -> bytes:
        record = {"token": self._token, "renewals": self._n_renewals, "owner": self._owner}
        return json.dumps(record).encode()

    def _read(self) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(self._object.read_bytes())
        except FileNotFoundError:
            return None
        return record


class _RenewalThread(threading.Thread):
    """Renews a lease; can be found after the modules of this package were loaded again."""

    def __init__(self, token: str, renew: Callable[[], None], stop: threading.Event) -> None:
        super().__init__(target=renew, name=f"store lease {token}", daemon=True)
        self.stop = stop


def _stop_renewal_here(token: str) -> bool:
    """Stop renewing a lease if this process does; return whether it did."""
    for thread in threading.enumerate():
        if thread.name == f"store lease {token}":
            thread.stop.set()  # type: ignore[attr-defined]  # a _RenewalThread
            thread.join()
            return True
    return False


def _describe(record: dict[str, Any] | None) -> str:
    return "another process" if record is None else str(LockOwner(**json.loads(record["owner"])))
