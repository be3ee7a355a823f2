"""Ids of an earlier run are those that tokenising gives, and are found only where they hold."""

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


def drafts(n: int, first: int = 0) -> list[RenderedDocument]:
    return [
        RenderedDocument(
            f"file/{k}.py", "file", "train", f"{k}.py", AT,
            (Segment(f"File {k}.py:\n\n", train=False),
             Segment(f"def f{k}(x):\n    return x + {k}\n" * 20, train=True)),
        )
        for k in range(first, first + n)
    ]  # fmt: skip


@pytest.fixture
def counting(
    smollm2: Any, smollm2_profile: ModelProfile, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[RenderedDocument], Path | None], tuple[list[Any], int]]:
    """Makes documents, and counts the long texts that went through the tokenizer."""
    tokenizer = DocumentTokenizer(copy.deepcopy(smollm2), smollm2_profile)
    seen: list[str] = []
    plain = tokenizer._encode
    monkeypatch.setattr(tokenizer, "_encode", lambda texts: (seen.extend(texts), plain(texts))[1])

    def made(wanted: list[RenderedDocument], folder: Path | None) -> tuple[list[Any], int]:
        seen.clear()
        batches = list(document_batches(wanted, tokenizer, 256, token_cache_folder=folder))
        return batches, sum(len(text) >= 256 for text in seen)

    return made


def test_unchanged_texts_are_not_tokenised_again_and_give_the_same(
    counting: Any, tmp_path: Path
) -> None:
    anew, n_anew = counting(drafts(30), None)
    first, n_first = counting(drafts(30), tmp_path)
    again, n_again = counting(drafts(30), tmp_path)
    _, n_more = counting(drafts(32), tmp_path)
    assert (n_anew, n_first, n_again, n_more) == (30, 30, 0, 2)
    assert anew == first == again


def test_another_tokenizer_finds_nothing(counting: Any, tmp_path: Path, llama3: Any) -> None:
    counting(drafts(3), tmp_path)
    texts = [draft.segments[1].text for draft in drafts(3)]
    store = token_cache.TokenisedTexts(tmp_path, llama3.backend_tokenizer)
    assert store.find(texts) == [None, None, None]


def test_a_damaged_file_is_made_anew(counting: Any, tmp_path: Path) -> None:
    first, _ = counting(drafts(3), tmp_path)
    [file] = tmp_path.glob("*/*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    again, n_again = counting(drafts(3), tmp_path)
    assert (again, n_again) == (first, 3)


def test_a_run_that_fails_leaves_nothing_behind(counting: Any, tmp_path: Path) -> None:
    def failing() -> Any:
        yield from drafts(3)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        counting(failing(), tmp_path / "kept")
    assert list((tmp_path / "kept").glob("*/*")) == []


def test_the_store_stays_within_its_bound(
    counting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting(drafts(20), tmp_path)
    counting(drafts(20, first=20), tmp_path)
    sizes = [file.stat().st_size for file in tmp_path.glob("*/*.arrow")]
    assert len(sizes) == 2
    monkeypatch.setattr(token_cache, "_MOST_BYTES", sum(sizes) - 1)
    _, n_newest = counting(drafts(20, first=20), tmp_path)
    assert n_newest == 0  # what was used last stays
    assert len(list(tmp_path.glob("*/*.arrow"))) == 1
