"""Cached ids equal those of the tokenizer, and are used only with the same tokenizer."""

import copy
import random
import resource
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.builders.damage import FAULTS, damage_file
from tests.builders.processes import Script, running
from tests.builders.project import ROOT

from the_block_llm.errors import StorageError
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


@pytest.mark.parametrize("fault", FAULTS)
def test_texts_of_a_damaged_file_are_tokenized_again(
    build_and_count: Any, tmp_path: Path, fault: str
) -> None:
    first, _ = build_and_count(docs(3), tmp_path)
    for seed in range(5):
        [file] = tmp_path.glob("*/*.arrow")
        damage_file(file, fault, random.Random(seed))
        again, n_again = build_and_count(docs(3), tmp_path)
        assert (again, n_again) == (first, 3)


def test_a_full_disk_names_the_remedy(build_and_count: Any, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(StorageError, match="Cannot write to .*larger than"):
            build_and_count(docs(30), tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.glob("cache/*/*"))


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


SHARE = """
    import random, sys
    from pathlib import Path
    import numpy as np
    from tests.builders.tiny_llama import byte_tokenizer
    from the_block_llm.pipelines.sequence_build.tokenization import token_cache
    token_cache._MAX_CACHE_FILES = 2
    tokenizer = byte_tokenizer().backend_tokenizer
    rng = random.Random(sys.argv[2])
    for _ in range(40):
        texts = [f"{rng.randrange(9)} " * 300 for _ in range(4)]
        ids = [np.arange(len(text), dtype=np.int32) for text in texts]
        with token_cache.TokenCache(Path(sys.argv[1]), tokenizer) as cache:
            for text, found in zip(texts, cache.lookup(texts), strict=True):
                assert found is None or list(found) == list(range(len(text)))
            cache.store(texts, ids)
"""


def test_runs_that_share_the_cache_and_evict_each_others_files(tmp_path: Path) -> None:
    runs = [Script(SHARE, tmp_path, seed, cwd=ROOT) for seed in range(4)]
    with running(*runs):
        for run in runs:
            run.finish()
    assert len(list(tmp_path.glob("*/*.arrow"))) <= 2 * len(runs)
    assert not list(tmp_path.glob("*/.*")), "no lease or unfinished file is left"


def test_an_unfinished_file_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    code = SHARE.replace(
        "cache.store(texts, ids)",
        """cache.store(texts, ids)
            print("stored", flush=True)
            sys.stdin.readline()""",
    )
    killed = Script(code, tmp_path, 0, cwd=ROOT)
    killed.wait_for("stored")
    assert list(tmp_path.glob("*/.*.unfinished"))
    killed.kill()
    Script(SHARE, tmp_path, 1, cwd=ROOT).finish()
    assert not list(tmp_path.glob("*/.*"))
