"""The key of the pseudonyms: created once, never replaced, and moved out of conf."""

import random
import stat
import threading
from pathlib import Path

import pytest
from tests.builders.damage import damage_file
from tests.builders.processes import Script, running

from the_block_llm.errors import StorageError
from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import (
    FORMER_KEY_FILE,
    load_pseudonymizer,
)


def author(key_file: Path) -> str:
    return load_pseudonymizer(True, key_file).author_id("Ann", "ann@example.org")


def test_the_key_is_created_once_for_its_owner_only(tmp_path: Path) -> None:
    key_file = tmp_path / ".pseudonym.key"
    first = author(key_file)
    assert author(key_file) == first
    assert key_file.stat().st_mode & 0o077 == 0
    assert len(bytes.fromhex(key_file.read_text().split()[0])) == 32


def test_the_former_key_is_moved_and_gives_the_same_pseudonyms(tmp_path: Path) -> None:
    former = tmp_path / FORMER_KEY_FILE
    former.parent.mkdir(parents=True)
    before = author(former)
    assert author(tmp_path / ".pseudonym.key") == before
    assert not former.exists()
    assert author(tmp_path / ".pseudonym.key") == before


def test_runs_at_once_use_one_key(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    seen: list[str] = []

    def run() -> None:
        start.wait()
        seen.append(author(tmp_path / ".pseudonym.key"))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1


@pytest.mark.parametrize("content", ["", "\n", "abcd", "not hexadecimal"])
def test_an_unfinished_or_damaged_key_is_not_used(tmp_path: Path, content: str) -> None:
    key_file = tmp_path / ".pseudonym.key"
    key_file.write_text(content)
    with pytest.raises(StorageError, match=r"\.pseudonym\.key is damaged"):
        author(key_file)
    assert key_file.read_text() == content


LOAD = """
    import sys
    from pathlib import Path
    from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import load_pseudonymizer
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(100):
        print(load_pseudonymizer(True, Path(sys.argv[1]) / str(n)).key.hex())
"""


def test_processes_that_create_the_key_at_once_get_the_same(tmp_path: Path) -> None:
    loaders = [Script(LOAD, tmp_path) for _ in range(4)]
    with running(*loaders):
        for loader in loaders:
            loader.wait_for("ready")
        for loader in loaders:
            loader.send("go")
        assert len({loader.finish().partition("ready")[2] for loader in loaders}) == 1
    keys = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert len(keys) == 100, "nothing but locks is left beside the keys"
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


@pytest.mark.parametrize("fault", ["truncate", "empty", "zeros", "bit"])
def test_a_damaged_key_is_an_error_and_never_another_key(tmp_path: Path, fault: str) -> None:
    """An empty key would be a valid one, from which names can be computed."""
    key_file = tmp_path / "pseudonym.key"
    expected = load_pseudonymizer(True, key_file)
    text = key_file.read_text()
    for seed in range(100):
        damage_file(key_file, fault, random.Random(seed))
        if key_file.read_text("latin-1").strip() in (text.split()[0], text.strip()):
            # Without its checksum, or its end of line, the key is still whole.
            assert load_pseudonymizer(True, key_file) == expected
        else:
            with pytest.raises(StorageError, match="is damaged"):
                load_pseudonymizer(True, key_file)
        key_file.write_text(text)


def test_a_key_of_the_user_needs_no_checksum(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0f" * 32)
    assert load_pseudonymizer(True, tmp_path / "key").key == b"\x0f" * 32
    (tmp_path / "key").write_text("0f" * 16)
    with pytest.raises(StorageError, match="is damaged"):
        load_pseudonymizer(True, tmp_path / "key")
