"""Only what no process uses is removed, on this host and others."""

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest
from tests.builders.processes import Script, running

from the_block_llm.locks.leases import is_leased, lease, leased_temporary_folder, remove_unleased

MAKE = """
    import os, platform, sys
    from pathlib import Path
    if len(sys.argv) > 2:
        platform.node = lambda: sys.argv[2]
    from the_block_llm.locks.leases import leased_temporary_folder
    with leased_temporary_folder(Path(sys.argv[1]), "box") as folder:
        (folder / "file").write_text("text")
        print(f"made {folder} made", flush=True)
        sys.stdin.readline()
        assert (folder / "file").read_text() == "text"
"""
MAKE_AND_CLEAN = """
    import sys
    from pathlib import Path
    from the_block_llm.locks.leases import leased_temporary_folder, remove_unleased
    parent = Path(sys.argv[1])
    for _ in range(60):
        with leased_temporary_folder(parent, "box") as folder:
            (folder / "file").write_text("text")
            remove_unleased(parent, "box-*")
            assert (folder / "file").read_text() == "text"
"""
ANOTHER_HOST = "node7.cluster.example"


def make(parent: Path, *host: str) -> tuple[Script, Path]:
    script = Script(MAKE, parent, *host)
    script.wait_for("made")
    return script, Path(script.output.split()[1])


@pytest.mark.parametrize("host", [(), (ANOTHER_HOST,)])
def test_a_folder_in_use_is_not_removed(tmp_path: Path, host: tuple[str, ...]) -> None:
    script, folder = make(tmp_path, *host)
    with running(script):
        remove_unleased(tmp_path, "box-*")
        assert (folder / "file").exists()
        script.finish("go")
    assert list(tmp_path.iterdir()) == [], "its owner removes it, with its lease"


def test_a_folder_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    script, folder = make(tmp_path)
    script.kill()
    assert folder.exists()
    remove_unleased(tmp_path, "box-*")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_a_killed_process_of_another_host_is_removed_after_a_day(
    tmp_path: Path,
) -> None:
    # Until then it may be one whose lock does not reach this host.
    script, folder = make(tmp_path, ANOTHER_HOST)
    script.kill()
    remove_unleased(tmp_path, "box-*")
    assert folder.exists()
    [lease_file] = tmp_path.glob(".box-*.lease")
    yesterday = time.time() - 25 * 3600
    os.utime(lease_file, (yesterday, yesterday))
    remove_unleased(tmp_path, "box-*")
    assert list(tmp_path.iterdir()) == []


def test_the_next_process_removes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    script, folder = make(tmp_path)
    script.kill()
    second, _ = make(tmp_path)
    with running(second):
        assert not folder.exists()


def test_processes_never_remove_each_others_folders(tmp_path: Path) -> None:
    scripts = [Script(MAKE_AND_CLEAN, tmp_path) for _ in range(4)]
    with running(*scripts):
        for script in scripts:
            script.finish()
    assert list(tmp_path.iterdir()) == []


def test_several_may_hold_a_lease_and_each_counts(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with lease(folder):
        with lease(folder):
            assert is_leased(folder)
        assert is_leased(folder)
        # Names that begin alike, or hold special characters, are others.
        assert not is_leased(tmp_path / "index2")
        assert not is_leased(tmp_path / "ind*")
    assert not is_leased(folder)


def test_files_are_removed_like_folders(tmp_path: Path) -> None:
    for name in ("a.unfinished", "b.unfinished"):
        (tmp_path / name).write_text("")
    with lease(tmp_path / "a.unfinished"):
        remove_unleased(tmp_path, "*.unfinished")
        assert (tmp_path / "a.unfinished").exists()
        assert not (tmp_path / "b.unfinished").exists()


def test_a_failing_owner_removes_its_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with leased_temporary_folder(tmp_path, "box") as folder:
            (folder / "file").write_text("text")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_of_the_file_system_a_lease_holds_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with leased_temporary_folder(tmp_path, "box") as folder:
        remove_unleased(tmp_path, "box-*")
        assert folder.exists()
        [lease_file] = tmp_path.glob(".box-*.lease")
        yesterday = time.time() - 25 * 3600
        os.utime(lease_file, (yesterday, yesterday))
        remove_unleased(tmp_path, "box-*")
        assert not folder.exists()
    assert list(tmp_path.iterdir()) == []
