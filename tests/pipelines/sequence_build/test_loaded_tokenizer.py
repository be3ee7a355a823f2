import os
from pathlib import Path

import pytest
from tests.builders.tiny_llama import save_tiny_llama, tiny_profile

from the_block_llm.pipelines.sequence_build import tokens
from the_block_llm.pipelines.sequence_build.loaded_tokenizer import loaded_tokenizer


def test_a_process_loads_a_tokenizer_once(tmp_path: Path) -> None:
    profile = tiny_profile(save_tiny_llama(tmp_path))
    first = loaded_tokenizer(profile, domain_marks=False)
    assert loaded_tokenizer(profile, domain_marks=False) is first
    assert first.added_tokens == {}


def test_another_choice_or_another_file_is_loaded_anew(tmp_path: Path) -> None:
    profile = tiny_profile(save_tiny_llama(tmp_path))
    plain = loaded_tokenizer(profile, domain_marks=False)
    marked = loaded_tokenizer(profile, domain_marks=True)
    assert marked.added_tokens
    assert set(marked.added_tokens) <= set(marked.tokenizer.vocabulary)
    again = loaded_tokenizer(profile, domain_marks=False)
    assert not set(marked.added_tokens) & set(again.tokenizer.vocabulary)
    assert again is not plain
    os.utime(tmp_path / "tokenizer.json", ns=(1, 1))
    assert loaded_tokenizer(profile, domain_marks=False) is not again


@pytest.mark.parametrize(
    ("n_threads", "words"), [(1, 100_000), (2, 100_000), (8, 25_000), (64, 10_000)]
)
def test_all_threads_together_keep_so_many_words(
    monkeypatch: pytest.MonkeyPatch, n_threads: int, words: int
) -> None:
    kept: list[int] = []

    class Model:
        def _resize_cache(self, n_words: int) -> None:
            kept.append(n_words)

    class Backend:
        model = Model()

    monkeypatch.setenv("RAYON_NUM_THREADS", str(n_threads))
    tokens._keep_words(Backend())
    assert kept == [words]
