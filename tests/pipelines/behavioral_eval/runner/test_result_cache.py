import pytest

from the_block_llm.errors import StorageError
from the_block_llm.pipelines.behavioral_eval.runner.result_cache import ResultCache, result_key


def test_results_come_back(tmp_path):
    with ResultCache(tmp_path, "weights") as cache:
        cache.put("a", {"text": "größe"})
        assert "a" in cache
    with ResultCache(tmp_path, "weights") as cache:
        assert cache["a"] == {"text": "größe"}
        assert "b" not in cache


def test_other_weights_have_other_results(tmp_path):
    with ResultCache(tmp_path, "one") as cache:
        cache.put("a", 1)
    with ResultCache(tmp_path, "two") as cache:
        assert "a" not in cache


@pytest.mark.parametrize("torn", ['["b", {"te', '["b", 2]', "\x00\x00"])
def test_a_line_that_was_not_finished_is_cut_off(tmp_path, torn):
    with ResultCache(tmp_path, "weights") as cache:
        cache.put("a", 1)
    [path] = tmp_path.iterdir()
    with path.open("a") as file:
        file.write(torn)
    with ResultCache(tmp_path, "weights") as cache:
        assert "a" in cache
        assert "b" not in cache
        cache.put("c", 3)
    with ResultCache(tmp_path, "weights") as cache:
        assert (cache["a"], cache["c"]) == (1, 3)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write the result cache"):
        ResultCache(tmp_path / "file", "weights")


def test_keys_depend_on_every_part():
    keys = {result_key("a", 1), result_key("a", "1"), result_key("a", [1]), result_key("b", 1)}
    assert len(keys) == 4
    assert result_key({"x": 1, "y": 2}) == result_key({"y": 2, "x": 1})
