import ast
import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from the_block_llm.errors import StorageError
from the_block_llm.pipelines.behavioral_eval.runner import result_cache
from the_block_llm.pipelines.behavioral_eval.runner.result_cache import ResultCache, result_key
from the_block_llm.source_digest import PACKAGE


def file_of(folder: Path) -> Path:
    [path] = folder.glob("*.jsonl")
    return path


def test_stored_results_are_read_back(tmp_path: Path) -> None:
    with ResultCache(tmp_path, "weights") as cache:
        cache.put("a", {"text": "größe"})
        assert "a" in cache
    with ResultCache(tmp_path, "weights") as cache:
        assert cache["a"] == {"text": "größe"}
        assert "b" not in cache


def test_results_are_separate_by_weights(tmp_path: Path) -> None:
    with ResultCache(tmp_path, "one") as cache:
        cache.put("a", 1)
    with ResultCache(tmp_path, "two") as cache:
        assert "a" not in cache


GARBAGE = [
    b'["b", {"te', b'["b", 2]', b"\0\0", b"\n", b"\0" * 4096, b"3", b"null\n", b"\xff\xfe\n",
    b'{"a": 9}\n', b'["a", 9]\n', b"0123456789abcdef [\"a\", 9]\n", b"[" * 100_000, b"\r\n",
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_a_bad_line_loses_only_itself(
    garbage: bytes, place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = [0]
    with ResultCache(tmp_path, "weights") as cache:
        for key in "abc":
            cache.put(key, [key])
            sizes.append(file_of(tmp_path).stat().st_size)
    at = {"start": 0, "middle": sizes[1], "end": sizes[-1]}[place]
    content = file_of(tmp_path).read_bytes()
    file_of(tmp_path).write_bytes(content[:at] + garbage + content[at:])
    with ResultCache(tmp_path, "weights") as cache:
        assert {key: cache[key] for key in "abc"} == {"a": ["a"], "b": ["b"], "c": ["c"]}
        cache.put("d", 4)
    with ResultCache(tmp_path, "weights") as cache:
        assert cache["d"] == 4
    assert ("are ignored" in caplog.text) == bool(garbage.strip(b"\n"))


_DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "zero"]),
        st.integers(0, 2000),
        st.integers(1, 60),
        st.binary(min_size=1, max_size=20),
    ),
    max_size=5,
)
_RESULTS = st.lists(
    st.one_of(
        st.floats(allow_nan=False), st.text(max_size=30), st.lists(st.integers(), max_size=9)
    ),
    min_size=1,
    max_size=20,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(results=_RESULTS, damage=_DAMAGE, torn=st.integers(0, 30))
def test_no_damage_loses_another_line_or_gives_a_wrong_result(
    tmp_path_factory: pytest.TempPathFactory, results: list[Any], damage: Any, torn: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    with ResultCache(folder, "weights") as cache:
        bounds = [0]
        for number, result in enumerate(results):
            cache.put(str(number), result)
            bounds.append(file_of(folder).stat().st_size)
    # Each byte with the number of its record, so that one knows which records are whole.
    content = file_of(folder).read_bytes()
    record_of = [n for n in range(len(results)) for _ in range(bounds[n], bounds[n + 1])]
    cells: list[tuple[int, int | None]] = list(zip(content, record_of, strict=True))
    touched: set[int | None] = set()
    for sort, place, length, data in damage:
        at = place % (len(cells) + 1)
        removed = [] if sort == "insert" else cells[at : at + length]
        touched |= {record for _, record in removed}
        new = {
            "flip": bytes(255 - byte for byte, _ in removed), "cut": b"",
            "zero": bytes(len(removed)), "insert": data,
        }[sort]  # fmt: skip
        if sort == "insert" and 0 < at < len(cells) and cells[at - 1][1] == cells[at][1]:
            touched.add(cells[at][1])
        cells[at : at + len(removed)] = [(byte, None) for byte in new]
    damaged = bytes(byte for byte, _ in cells)
    if torn:
        touched |= {record for _, record in cells[-torn:]}
        damaged = damaged[:-torn]
    file_of(folder).write_bytes(damaged)
    with ResultCache(folder, "weights") as cache:
        for number, result in enumerate(results):
            assert str(number) in cache or number in touched
            assert str(number) not in cache or cache[str(number)] == result
        cache.put("new", "n")
    with ResultCache(folder, "weights") as cache:
        assert cache["new"] == "n"


def test_results_of_other_code_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ResultCache(tmp_path, "weights") as cache:
        cache.put("a", 1)
    (tmp_path / f"{result_key('weights')}.jsonl").write_text('["b", 2]\n')  # of an older version
    with ResultCache(tmp_path, "other") as cache:
        cache.put("a", 3)
    monkeypatch.setattr(result_cache, "scoring_digest", lambda: "another")
    with ResultCache(tmp_path, "weights") as cache:
        assert "a" not in cache
        assert "b" not in cache
    monkeypatch.undo()
    with ResultCache(tmp_path, "other") as cache:
        assert cache["a"] == 3
    assert len(list(tmp_path.glob(f"{result_key('weights')}*.jsonl"))) == 1


def _use(folder: Path, opened: Any, go_on: Any) -> None:
    with ResultCache(folder, "weights") as cache:
        opened.set()
        go_on.wait(30)
        cache.put("first", 1)


def test_a_second_evaluation_waits_and_finds_the_results_of_the_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("spawn")
    opened, go_on = context.Event(), context.Event()
    process = context.Process(target=_use, args=(tmp_path, opened, go_on))
    process.start()
    assert opened.wait(60)
    # The message comes before the wait, so the other may then go on.
    monkeypatch.setattr(result_cache._log, "info", lambda *_, **__: go_on.set())
    with ResultCache(tmp_path, "weights") as cache:
        assert go_on.is_set()
        assert cache["first"] == 1
    process.join(30)
    assert process.exitcode == 0


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write the result cache"):
        ResultCache(tmp_path / "file", "weights")


def test_a_full_disk_is_one_error_and_loses_no_finished_result(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with ResultCache(tmp_path, "weights") as cache:
            cache.put("a", 1)
            # Half of the next line still fits.
            size = file_of(tmp_path).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
            with pytest.raises(StorageError, match=r"Cannot write .*Then run again"):
                cache.put("b", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with ResultCache(tmp_path, "weights") as cache:
        assert (cache["a"], "b" in cache) == (1, False)
        cache.put("c", 3)
    with ResultCache(tmp_path, "weights") as cache:
        assert cache["c"] == 3


def test_a_key_depends_on_every_part() -> None:
    keys = {result_key("a", 1), result_key("a", "1"), result_key("a", [1]), result_key("b", 1)}
    assert len(keys) == 4
    assert result_key({"x": 1, "y": 2}) == result_key({"y": 2, "x": 1})


def test_all_code_that_computes_results_is_part_of_the_digest() -> None:
    def imported(source: str) -> set[str]:
        path = PACKAGE / source
        modules = path.rglob("*.py") if path.is_dir() else [path]
        trees = [ast.walk(ast.parse(module.read_text(encoding="utf-8"))) for module in modules]
        names = {n.module or "" for tree in trees for n in tree if isinstance(n, ast.ImportFrom)}
        return {n.removeprefix("the_block_llm.") for n in names if n.startswith("the_block_llm.")}

    hashed = [source.removesuffix(".py").replace("/", ".") for source in result_cache._SOURCES]
    found = {name for source in result_cache._SOURCES for name in imported(source)}
    # These read and write files, or show progress; the text they give is part of the keys.
    assert {name for name in found if not name.startswith(tuple(hashed))} == {
        "datasets.cutoff", "datasets.parquet_table", "errors", "files.checksums",
        "files.durable_files", "locks.process_lock", "memory", "os_errors", "progress",
        "source_digest",
    }  # fmt: skip
