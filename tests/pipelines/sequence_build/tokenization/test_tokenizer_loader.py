import os
import pickle
from datetime import UTC, datetime
from pathlib import Path

from tests.builders.tiny_llama import save_tiny_llama, tiny_profile
from tests.builders.without_torch import load_tokenizer_and_check_torch

from the_block_llm.execution.local_jobs import run_in_subprocess
from the_block_llm.pipelines.sequence_build.document import Draft, Segment
from the_block_llm.pipelines.sequence_build.tokenization.tokenizer_loader import (
    LoadedTokenizer,
    loaded_tokenizer,
)


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


def test_it_is_read_without_torch_and_is_the_same(tmp_path: Path) -> None:
    profile = tiny_profile(save_tiny_llama(tmp_path))
    has_torch, apart = run_in_subprocess(load_tokenizer_and_check_torch, profile)
    assert not has_torch
    here = loaded_tokenizer(profile, domain_marks=True)
    assert encoded(apart) == encoded(here)
    assert (apart.added_tokens, apart.file) == (here.added_tokens, here.file)


def test_one_that_was_sent_still_takes_every_text_literally(tmp_path: Path) -> None:
    here = loaded_tokenizer(tiny_profile(save_tiny_llama(tmp_path)), domain_marks=True)
    sent = pickle.loads(pickle.dumps(here))
    assert encoded(sent) == encoded(here)


def encoded(loaded: LoadedTokenizer) -> list[int]:
    # A mark that is written in a text is a handful of ordinary tokens.
    mark = next(iter(loaded.added_tokens))
    segments = (Segment(f"What is {mark}?", train=False), Segment(f"A mark: {mark}.", train=True))
    draft = Draft("d", "chat", "train", "a.py", datetime(2026, 1, 1, tzinfo=UTC), segments)
    [document] = loaded.tokenizer.encode([draft])
    ids: list[int] = document.input_ids.tolist()
    assert loaded.added_tokens[mark] not in ids
    return ids
