"""One process at a time holds a lock, whatever becomes of the one before."""

import errno
import fcntl
import json
import logging
import os
import threading
from pathlib import Path

import pytest
from tests.builders.processes import Script, running

from the_block_llm.errors import InUseError
from the_block_llm.locks.process_lock import ProcessLock, read_owner

HOLD = """
    import os, sys
    from pathlib import Path
    from the_block_llm.locks.process_lock import ProcessLock
    lock = ProcessLock(Path(sys.argv[1]), "The cellar")
    lock.acquire()
    if "fork" in sys.argv and not os.fork():
        import time; time.sleep(60); os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
    lock.release()
"""
ADD_ONE = """
    import sys, time
    from pathlib import Path
    from the_block_llm.locks.process_lock import ProcessLock
    number = Path(sys.argv[2])
    for _ in range(15):
        with ProcessLock(Path(sys.argv[1]), "The number"):
            value = int(number.read_text())
            time.sleep(0.002)
            number.write_text(str(value + 1))
"""


def test_processes_hold_it_one_after_the_other(tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    scripts = [Script(ADD_ONE, tmp_path / "lock", number) for _ in range(4)]
    with running(*scripts):
        for script in scripts:
            script.finish()
    assert number.read_text() == str(4 * 15)


def test_the_message_names_the_holder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "new" / "lock"
    holder = Script(HOLD, path, "https://ann:secret@example.org/project")
    with running(holder):
        holder.wait_for("held")
        expected = rf"^The cellar is in use by .*process {holder.pid} on"
        with pytest.raises(InUseError, match=expected) as error:
            ProcessLock(path, "The cellar", "Bring a key.").acquire(timeout_s=0)
        assert "https://***@example.org/project" in str(error.value)
        assert "secret" not in str(error.value)
        assert str(error.value).endswith("Bring a key.")
        assert not caplog.records, "refused at once, without waiting"
        with pytest.raises(InUseError, match="also after waiting 1 s"):
            ProcessLock(path, "The cellar").acquire(timeout_s=1)
        [record] = caplog.records
        assert record.getMessage().startswith("Waiting: The cellar is in use by ")
        assert f"process {holder.pid}" in record.getMessage()


def test_it_is_free_when_the_holder_releases_it(tmp_path: Path) -> None:
    holder = Script(HOLD, tmp_path / "lock")
    with running(holder):
        holder.wait_for("held")
        assert read_owner(tmp_path / "lock") is not None
        holder.finish("go")
    assert read_owner(tmp_path / "lock") is None
    with ProcessLock(tmp_path / "lock", "It"):
        assert read_owner(tmp_path / "lock").pid == os.getpid()


@pytest.mark.parametrize("mode", ["alone", "fork"])
def test_it_is_free_when_the_holder_is_killed(tmp_path: Path, mode: str) -> None:
    holder = Script(HOLD, tmp_path / "lock", mode)
    holder.wait_for("held")
    os.kill(holder.pid, 9)  # a forked child of it lives on and has its standard output open
    os.waitpid(holder.pid, 0)
    # On a busy machine the child has yet to close its copy of the file.
    with ProcessLock(tmp_path / "lock", "It"):
        assert read_owner(tmp_path / "lock").pid == os.getpid()


def test_a_record_of_another_host_does_not_hold_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = {
        "host": "node7", "pid": os.getpid(), "command": "kedro run", "thread": 1,
        "started": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    (tmp_path / "lock.owner").write_text(json.dumps(record))
    with ProcessLock(tmp_path / "lock", "It"):
        assert "process" in caplog.text
        assert "node7" in caplog.text
        assert "do not reach other hosts" in caplog.text


@pytest.mark.parametrize("record", ["", "{", "[]", '{"host": 1}', "\x00"])
def test_a_damaged_record_is_as_good_as_none(tmp_path: Path, record: str) -> None:
    (tmp_path / "lock.owner").write_text(record)
    with ProcessLock(tmp_path / "lock", "It"):
        assert read_owner(tmp_path / "lock").pid == os.getpid()


def test_threads_of_a_process_exclude_each_other(tmp_path: Path) -> None:
    counts = {"now": 0, "most": 0}

    def work() -> None:
        for _ in range(5):
            with ProcessLock(tmp_path / "lock", "It"):
                counts["now"] += 1
                counts["most"] = max(counts["most"], counts["now"])
                threading.Event().wait(0.002)
                counts["now"] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {"now": 0, "most": 1}


def test_an_interrupted_holder_of_the_same_thread_is_succeeded(tmp_path: Path) -> None:
    interrupted = ProcessLock(tmp_path / "lock", "It", takes_over=True)
    interrupted.acquire()
    again = ProcessLock(tmp_path / "lock", "It", takes_over=True)
    again.acquire(timeout_s=0)
    with pytest.raises(InUseError):  # now held by the second
        ProcessLock(tmp_path / "lock", "It").acquire(timeout_s=0)
    again.release()
    ProcessLock(tmp_path / "lock", "It").acquire(timeout_s=0)


def test_a_holder_in_another_live_thread_is_not_succeeded(tmp_path: Path) -> None:
    is_held, may_end = threading.Event(), threading.Event()
    held: list[ProcessLock] = []

    def hold() -> None:
        held.append(ProcessLock(tmp_path / "lock", "It", takes_over=True))
        held[0].acquire()
        is_held.set()
        may_end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    lock = ProcessLock(tmp_path / "lock", "It", takes_over=True)
    try:
        with pytest.raises(InUseError):
            lock.acquire(timeout_s=0)
    finally:
        may_end.set()
        thread.join()
    lock.acquire(timeout_s=0)  # the thread has ended without releasing it
    lock.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), ProcessLock(tmp_path / "lock", "It"):
        pass
    assert f"The file system of {tmp_path} has no locks" in caplog.text


def test_a_lock_may_be_taken_by_whoever_may_write_to_its_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    with ProcessLock(tmp_path / "lock", "It"):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o664
