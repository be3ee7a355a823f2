import os
from pathlib import Path

from tests.builders.tiny_llama import save_tiny_llama, tiny_profile

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
