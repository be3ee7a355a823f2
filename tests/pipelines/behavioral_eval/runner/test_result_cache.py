import resource
import signal

import pytest

from the_block_llm.errors import StorageError
from the_block_llm.pipelines.behavioral_eval.runner.result_cache import ResultCache, result_key


def test_stored_results_are_read_back(tmp_path):
    with ResultCache(tmp_path, "weights") as cache:
        cache.put("a", {"text": "größe"})
        assert "a" in cache
    with ResultCache(tmp_path, "weights") as cache:
        assert cache["a"] == {"text": "größe"}
        assert "b" not in cache


def test_results_are_separate_by_weights(tmp_path):
    with ResultCache(tmp_path, "one") as cache:
        cache.put("a", 1)
    with ResultCache(tmp_path, "two") as cache:
        assert "a" not in cache


@pytest.mark.parametrize("incomplete", ['["b", {"te', '["b", 2]', "\x00\x00"])
def test_an_incomplete_last_line_is_truncated(tmp_path, incomplete):
    with ResultCache(tmp_path, "weights") as cache:
        cache.put("a", 1)
    [path] = tmp_path.iterdir()
    with path.open("a") as file:
        file.write(incomplete)
    with ResultCache(tmp_path, "weights") as cache:
        assert "a" in cache
        assert "b" not in cache
        cache.put("c", 3)
    with ResultCache(tmp_path, "weights") as cache:
        assert (cache["a"], cache["c"]) == (1, 3)


def test_any_changed_bit_costs_only_the_result_of_its_line(tmp_path):
    with ResultCache(tmp_path, "weights") as cache:
        for n in range(3):
            cache.put(f"key {n}", [n, 0.5 + n])
    [path] = tmp_path.iterdir()
    original = path.read_bytes()
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1 << position % 7
        path.write_bytes(changed)
        with ResultCache(tmp_path, "weights") as cache:
            kept = [n for n in range(3) if f"key {n}" in cache]
            assert all(cache[f"key {n}"] == [n, 0.5 + n] for n in kept)
            assert len(kept) >= 1
            cache.put("new", 1)
        with ResultCache(tmp_path, "weights") as cache:
            assert "new" in cache
    with ResultCache(tmp_path, "weights") as cache:
        cache.put("key 1", "newer")
    with ResultCache(tmp_path, "weights") as cache:
        assert cache["key 1"] == "newer"


def put_many(folder):
    with ResultCache(folder, "weights") as cache:
        for n in range(10):
            cache.put(f"long key {n}", "x" * 50)


def test_a_full_disk_is_an_error_and_keeps_earlier_results(tmp_path):
    with ResultCache(tmp_path, "weights") as cache:
        cache.put("a", 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(StorageError, match="Free some space"):
            put_many(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with ResultCache(tmp_path, "weights") as cache:
        assert cache["a"] == 1


def test_an_unwritable_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write the result cache"):
        ResultCache(tmp_path / "file", "weights")


def test_a_key_depends_on_every_part():
    keys = {result_key("a", 1), result_key("a", "1"), result_key("a", [1]), result_key("b", 1)}
    assert len(keys) == 4
    assert result_key({"x": 1, "y": 2}) == result_key({"y": 2, "x": 1})
