"""Durable writes and checksums, with a fault at every call of the operating system."""

import errno
import io
import itertools
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.datasets.report_files import read_report, write_report
from the_block_llm.errors import StorageError
from the_block_llm.files import checksums
from the_block_llm.files.checksums import (
    describe_files,
    file_checksum,
    find_damage,
    json_with_checksum,
    parse_json_with_checksum,
)
from the_block_llm.files.durable_files import replacing_folder, write_durably

SCHEMA = pa.schema([("n", pa.int64())])
CALLS = [
    (os, "open"), (io, "open"), (os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir"),
]  # fmt: skip


def rows(n: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"n": n}] * 3, SCHEMA)


def save_rows(folder: Path, n: int) -> None:
    save_table(folder / "table", SCHEMA, [rows(n)] * 3, part_bytes=1)


def save_files(folder: Path, n: int) -> None:
    with replacing_folder(folder / "files") as temporary:
        (temporary / "inner").mkdir()
        for path in (temporary / "a", temporary / "inner/b"):
            path.write_text(str(n))


WRITERS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], Any]]] = {
    "text": (
        lambda folder, n: write_durably(folder / "text", str(n)),
        lambda folder: int((folder / "text").read_text()),
    ),
    "report": (
        lambda folder, n: write_report(folder / "report.json", {"n": n}),
        lambda folder: read_report(folder / "report.json")["n"],
    ),
    "page": (
        lambda folder, n: write_report(folder / "page.html", f"<p>{n}</p>\n"),
        lambda folder: int(read_report(folder / "page.html")[3:4]),
    ),
    "folder": (
        save_files,
        lambda folder: int({(folder / "files" / p).read_text() for p in ("a", "inner/b")}.pop()),
    ),
    "table": (
        save_rows,
        lambda folder: ParquetTable(folder / "table").verify().table()["n"].to_pylist()[8],
    ),
}


def failing_call(
    function: Callable[..., Any], calls: Iterator[int], failing: int, code: int
) -> Callable[..., Any]:
    """Return ``function``, but raising an error when it is the call with the number ``failing``."""

    def called(*values: Any, **options: Any) -> Any:
        if next(calls) == failing:
            raise OSError(code, os.strerror(code), "somewhere")
        return function(*values, **options)

    return called


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", WRITERS)
def test_an_error_of_any_call_leaves_the_old_content_or_the_new(
    name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = WRITERS[name]
    for failing in itertools.count():
        folder = tmp_path / str(failing)
        write(folder, 1)
        calls = itertools.count()
        with monkeypatch.context() as patch:
            for module, call in CALLS:
                patch.setattr(
                    module, call, failing_call(getattr(module, call), calls, failing, code)
                )
            try:
                write(folder, 2)
                message = ""
            except StorageError as error:
                message = str(error)
        if next(calls) <= failing:
            break
        if message:
            assert os.strerror(code) in message
            assert re.search(r"run again|Run the pipeline", message)
            assert read(folder) in (1, 2)
        else:  # creating a folder that exists
            assert read(folder) == 2
        write(folder, 3)
        assert read(folder) == 3
        if name != "folder":  # if even deleting fails, a folder is left, for a day
            assert not list(folder.rglob("*.unfinished"))
    assert failing >= 4, "the calls were counted"


@pytest.mark.parametrize("name", ["table", "folder"])
def test_files_are_on_disk_before_a_name_refers_to_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a journal that writes names early would show them after a power failure."""
    on_disk: set[int] = set()
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def record_sync(handle: int) -> None:
        fsync(handle)
        on_disk.add(os.fstat(handle).st_ino)

    def check(move: Callable[..., None]) -> Callable[..., None]:
        def moved(source: Any, target: Any) -> None:
            path = Path(source)
            is_manifest = Path(target).name == "_manifest.json"
            if is_manifest or path.is_dir():
                named = [path, path.parent] if is_manifest else [path, *path.rglob("*")]
                named += path.parent.glob("*.parquet") if is_manifest else []
                assert {p.stat().st_ino for p in named} <= on_disk
                seen.append(Path(target).name)
            move(source, target)

        return moved

    seen: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", record_sync)
        patch.setattr(os, "replace", check(replace))
        patch.setattr(os, "rename", check(rename))
        WRITERS[name][0](tmp_path, 1)
    assert seen == [{"table": "_manifest.json", "folder": "files"}[name]]
    assert tmp_path.stat().st_ino in on_disk or (tmp_path / "table").stat().st_ino in on_disk


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    for age, suffix in ((25, "old"), (1, "new")):
        leftover = tmp_path / f".files.{suffix}.unfinished"
        leftover.mkdir()
        then = leftover.stat().st_mtime - age * 3600
        os.utime(leftover, (then, then))
    save_files(tmp_path, 1)
    assert {p.name for p in tmp_path.iterdir()} == {".files.new.unfinished", "files"}


def test_any_changed_byte_changes_the_checksum_and_a_hard_link_shares_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(random.Random(0).randbytes(500))
    described = describe_files([path])
    assert find_damage(tmp_path, described) is None
    for position in range(500):
        data = bytearray(path.read_bytes())
        data[position] ^= 1 << position % 8
        (tmp_path / "b").write_bytes(data)
        assert file_checksum(tmp_path / "b") != described["a"]["checksum"]
        (tmp_path / "b").unlink()
    os.link(path, tmp_path / "c")
    monkeypatch.setattr(checksums.zlib, "crc32", None)  # calling it would fail
    assert file_checksum(tmp_path / "c") == described["a"]["checksum"]


@pytest.mark.parametrize(
    "content", [{"a": 1, "b": [0.1, None, "ü"]}, [], [{"a": 1}], {}, {"n": 1e300}]
)
def test_json_is_read_back_and_any_changed_value_is_noticed(content: Any) -> None:
    text = json_with_checksum(content, indent=1)
    assert parse_json_with_checksum(text) == content
    assert parse_json_with_checksum(json.dumps(json.loads(text))) == content, "formatted anew"
    for position, character in enumerate(text):
        for bit in range(7):
            changed = text[:position] + chr(ord(character) ^ 1 << bit) + text[position + 1 :]
            try:
                assert parse_json_with_checksum(changed) == content
            except ValueError:
                continue
    for length in range(len(text)):
        with pytest.raises(ValueError, match=r"."):
            parse_json_with_checksum(text[:length])


def test_a_small_disk_that_fills_up_keeps_the_old_table(tmp_path: Path) -> None:
    """With a limit of the operating system on the size of files, as a full disk has on all."""
    import resource
    import signal

    write, read = WRITERS["table"]
    write(tmp_path, 1)
    large = pa.table({"n": pa.array(random.Random(0).sample(range(1 << 60), 200_000))}, SCHEMA)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit in (0, 100, 10_000, 1_000_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises(StorageError, match="File too large"):
                save_table(tmp_path / "table", SCHEMA, [large])
            assert read(tmp_path) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(list((tmp_path / "table").iterdir())) == 4
    shutil.rmtree(tmp_path / "table")
