"""The folders that a run keeps others out of."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.builders.processes import Script, running

from the_block_llm.datasets.object_store import StorePath, resolve_location
from the_block_llm.errors import InUseError, StorageError
from the_block_llm.project import store_lease
from the_block_llm.project.run_lock import RunLock
from the_block_llm.project.store_lease import StoreLease

HOLD_STORE = """
    import json, sys
    from the_block_llm.datasets.object_store import resolve_location
    from the_block_llm.project import store_lease
    store_lease._RENEWAL_S = 0.2
    lease = store_lease.StoreLease(resolve_location("s3://tables/a", json.loads(sys.argv[1])), "")
    lease.acquire(0)
    print("held", flush=True)
    sys.stdin.readline()
    lease.release()
"""


def is_free(*folders: Path, cache: Path | None = None) -> bool:
    lock = RunLock(*folders, cache=cache)
    try:
        lock.acquire(0)
    except InUseError:
        return False
    lock.release()
    return True


def test_runs_that_share_any_folder_exclude_each_other(tmp_path: Path) -> None:
    a, b, shared, cache = (tmp_path / name for name in ("a", "b", "shared", "cache"))
    holder = Script(
        """
        import sys
        from pathlib import Path
        from the_block_llm.project.run_lock import RunLock
        data, storage, cache = map(Path, sys.argv[1:])
        lock = RunLock(data, storage, cache)
        lock.acquire(0)
        print("held", flush=True)
        sys.stdin.readline()
        lock.release_cache()
        print("cache released", flush=True)
        sys.stdin.readline()
        """,
        a, shared, cache,
    )  # fmt: skip
    (tmp_path / "link").symlink_to(a)
    with running(holder):
        holder.wait_for("held")
        assert not is_free(a)
        assert not is_free(tmp_path / "link"), "the same folder by another name"
        assert not is_free(b, shared)
        assert not is_free(shared)
        assert not is_free(b, cache=cache)
        assert is_free(b)
        assert is_free(b, b, cache=b), "a folder given three times"
        holder.send("go")
        holder.wait_for("cache released")
        assert is_free(b, cache=cache)
        assert not is_free(b, shared)
    assert is_free(a, shared, cache=cache), "its holder was killed"


def test_what_was_acquired_before_a_refusal_is_released(tmp_path: Path) -> None:
    holder = RunLock(tmp_path / "z")
    holder.acquire(0)
    script = Script(
        """
        import sys
        from pathlib import Path
        from the_block_llm.errors import InUseError
        from the_block_llm.project.run_lock import RunLock
        lock = RunLock(Path(sys.argv[1]) / "a", Path(sys.argv[1]) / "z")
        try:
            lock.acquire(0)
        except InUseError as error:
            print(error, "refused", flush=True)
        sys.stdin.readline()
        """,
        tmp_path,
    )
    with running(script):
        script.wait_for("refused")
        assert is_free(tmp_path / "a")
    holder.release()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(StorageError, match=re.escape(str(tmp_path))):
        RunLock(tmp_path).acquire(0)


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / "data"))):
        RunLock(tmp_path / "data").acquire(0)


@pytest.fixture
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (
        ("_RENEWAL_S", 0.2), ("_EXPIRY_S", 60.0), ("_POLL_S", 0.1), ("_SETTLING_S", 0.1),
    ):  # fmt: skip
        monkeypatch.setattr(store_lease, name, seconds)


@pytest.fixture
def store(credentials: dict[str, Any], quick_leases: None) -> StorePath:
    location = resolve_location("s3://tables/a", credentials)
    assert isinstance(location, StorePath)
    return location


def hold(credentials: dict[str, Any]) -> Script:
    script = Script(HOLD_STORE, json.dumps(credentials))
    script.wait_for("held")
    return script


def test_a_lease_in_a_store_excludes_others_until_it_is_released(
    store: StorePath, credentials: dict[str, Any]
) -> None:
    holder = hold(credentials)
    with running(holder):
        with pytest.raises(InUseError, match=rf"s3://tables/a is in use by .*process {holder.pid}"):
            StoreLease(store, "").acquire(0)
        holder.finish("go")
    lease = StoreLease(store, "")
    lease.acquire(0)
    lease.check()
    lease.release()
    assert not store.sizes()


def test_the_lease_of_a_killed_process_expires(
    store: StorePath,
    credentials: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_lease, "_EXPIRY_S", 2.0)
    hold(credentials).kill()
    lease = StoreLease(store, "")
    lease.acquire(0)  # although nobody may be waited for: it is not renewed
    assert "Waiting: s3://tables/a is in use" in caplog.text
    lease.check()
    lease.release()


def test_a_process_whose_lease_was_taken_over_stops(
    store: StorePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = StoreLease(store, ""), StoreLease(store, "")
    first.acquire(0)
    first._stop.set()  # as if it could not reach the store
    assert first._thread is not None
    first._thread.join()
    monkeypatch.setattr(store_lease, "_EXPIRY_S", 2.0)
    second.acquire(0)
    with pytest.raises(InUseError, match="was taken over by"):
        first.check()
    first.release()
    second.check()
    second.release()


def test_an_interrupted_run_of_the_same_process_is_succeeded(
    store: StorePath, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted, second = StoreLease(store, ""), StoreLease(store, "")
    interrupted.acquire(0)  # and goes on renewing its lease
    second.acquire(0)
    assert "Waiting" not in caplog.text
    with pytest.raises(InUseError):
        interrupted.check()
    second.check()
    second.release()


def test_a_lease_removed_by_hand_is_not_written_again(store: StorePath) -> None:
    lease = StoreLease(store, "")
    lease.acquire(0)
    (store / ".run.json").unlink()
    with pytest.raises(InUseError):
        lease.check()
    lease.release()
    assert not store.sizes()
