import os
import pickle
from datetime import UTC, datetime
from pathlib import Path

from tests.builders.tiny_llama import save_tiny_llama, tiny_profile
from tests.pipelines.sequence_build.tokenization.without_torch import load_tokenizer_and_check_torch

from the_block_llm.execution.local_jobs import run_in_subprocess
from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment
from the_block_llm.pipelines.sequence_build.tokenization.tokenizer_loader import (
    LoadedTokenizer,
    get_tokenizer,
)


def test_the_tokenizer_is_loaded_once_per_process(tmp_path: Path) -> None:
    profile = tiny_profile(save_tiny_llama(tmp_path))
    first = get_tokenizer(profile, domain_marks=False)
    assert get_tokenizer(profile, domain_marks=False) is first
    assert first.added_tokens == {}


def test_another_option_or_a_changed_file_reloads_the_tokenizer(tmp_path: Path) -> None:
    profile = tiny_profile(save_tiny_llama(tmp_path))
    plain = get_tokenizer(profile, domain_marks=False)
    with_domain = get_tokenizer(profile, domain_marks=True)
    assert with_domain.added_tokens
    assert set(with_domain.added_tokens) <= set(with_domain.tokenizer.vocabulary)
    again = get_tokenizer(profile, domain_marks=False)
    assert not set(with_domain.added_tokens) & set(again.tokenizer.vocabulary)
    assert again is not plain
    os.utime(tmp_path / "tokenizer.json", ns=(1, 1))
    assert get_tokenizer(profile, domain_marks=False) is not again


def test_the_tokenizer_is_loaded_without_torch_and_is_the_same(tmp_path: Path) -> None:
    profile = tiny_profile(save_tiny_llama(tmp_path))
    has_torch, from_subprocess = run_in_subprocess(load_tokenizer_and_check_torch, profile)
    assert not has_torch
    here = get_tokenizer(profile, domain_marks=True)
    assert encoded(from_subprocess) == encoded(here)
    assert (from_subprocess.added_tokens, from_subprocess.file) == (here.added_tokens, here.file)


def test_a_pickled_tokenizer_still_encodes_special_tokens_as_text(tmp_path: Path) -> None:
    here = get_tokenizer(tiny_profile(save_tiny_llama(tmp_path)), domain_marks=True)
    unpickled = pickle.loads(pickle.dumps(here))
    assert encoded(unpickled) == encoded(here)


def encoded(loaded: LoadedTokenizer) -> list[int]:
    # A special token written in a text becomes several ordinary tokens.
    mark = next(iter(loaded.added_tokens))
    segments = (Segment(f"What is {mark}?", train=False), Segment(f"A mark: {mark}.", train=True))
    doc = RenderedDocument("d", "chat", "train", "a.py", datetime(2026, 1, 1, tzinfo=UTC), segments)
    [document] = loaded.tokenizer.encode([doc])
    ids: list[int] = document.input_ids.tolist()
    assert loaded.added_tokens[mark] not in ids
    return ids
