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


def test_an_unwritable_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write the result cache"):
        ResultCache(tmp_path / "file", "weights")


def test_a_key_depends_on_every_part():
    keys = {result_key("a", 1), result_key("a", "1"), result_key("a", [1]), result_key("b", 1)}
    assert len(keys) == 4
    assert result_key({"x": 1, "y": 2}) == result_key({"y": 2, "x": 1})
