"""Cached ids equal those of the tokenizer, and are used only with the same tokenizer."""

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment
from the_block_llm.pipelines.sequence_build.tokenization import token_cache
from the_block_llm.pipelines.sequence_build.tokenization.document_table import document_batches
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import DocumentTokenizer

AT = datetime(2026, 1, 1, tzinfo=UTC)


def docs(n: int, first: int = 0) -> list[RenderedDocument]:
    return [
        RenderedDocument(
            f"file/{k}.py", "file", "train", f"{k}.py", AT,
            (Segment(f"File {k}.py:\n\n", train=False),
             Segment(f"def f{k}(x):\n    return x + {k}\n" * 20, train=True)),
            is_checked=True,
        )
        for k in range(first, first + n)
    ]  # fmt: skip


@pytest.fixture
def build_and_count(
    smollm2: Any, smollm2_profile: ModelProfile, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[RenderedDocument], Path | None], tuple[list[Any], int]]:
    """Build documents, and count the texts of cacheable length that were tokenized."""
    tokenizer = DocumentTokenizer(copy.deepcopy(smollm2), smollm2_profile)
    encoded: list[str] = []
    encode = tokenizer._encode
    monkeypatch.setattr(
        tokenizer, "_encode", lambda texts: (encoded.extend(texts), encode(texts))[1]
    )

    def build(wanted: list[RenderedDocument], folder: Path | None) -> tuple[list[Any], int]:
        encoded.clear()
        batches = list(document_batches(wanted, tokenizer, 256, token_cache_folder=folder))
        return batches, sum(len(text) >= 256 for text in encoded)

    return build


def test_unchanged_texts_are_not_tokenized_again_and_have_the_same_ids(
    build_and_count: Any, tmp_path: Path
) -> None:
    uncached, n_uncached = build_and_count(docs(30), None)
    first, n_first = build_and_count(docs(30), tmp_path)
    again, n_again = build_and_count(docs(30), tmp_path)
    _, n_more = build_and_count(docs(32), tmp_path)
    assert (n_uncached, n_first, n_again, n_more) == (30, 30, 0, 2)
    assert uncached == first == again


def test_another_tokenizer_does_not_use_the_cache(
    build_and_count: Any, tmp_path: Path, llama3: Any
) -> None:
    build_and_count(docs(3), tmp_path)
    texts = [doc.segments[1].text for doc in docs(3)]
    cache = token_cache.TokenCache(tmp_path, llama3.backend_tokenizer)
    assert cache.lookup(texts) == [None, None, None]


def test_a_corrupt_file_is_ignored(build_and_count: Any, tmp_path: Path) -> None:
    first, _ = build_and_count(docs(3), tmp_path)
    [file] = tmp_path.glob("*/*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    again, n_again = build_and_count(docs(3), tmp_path)
    assert (again, n_again) == (first, 3)


def test_a_failed_run_leaves_no_files(build_and_count: Any, tmp_path: Path) -> None:
    def failing() -> Any:
        yield from docs(3)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        build_and_count(failing(), tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*/*")) == []


def test_least_recently_used_files_are_evicted(
    build_and_count: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_and_count(docs(20), tmp_path)
    build_and_count(docs(20, first=20), tmp_path)
    sizes = [file.stat().st_size for file in tmp_path.glob("*/*.arrow")]
    assert len(sizes) == 2
    monkeypatch.setattr(token_cache, "_MAX_CACHE_BYTES", sum(sizes) - 1)
    _, n_newest = build_and_count(docs(20, first=20), tmp_path)
    assert n_newest == 0  # the most recently used file is kept
    assert len(list(tmp_path.glob("*/*.arrow"))) == 1
