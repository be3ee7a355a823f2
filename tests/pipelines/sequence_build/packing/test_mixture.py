from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.pipelines.sequence_build.packing.mixture import excluded_by_mix, kept_fractions
from the_block_llm.pipelines.sequence_build.params import Mix
from the_block_llm.schemas import DOCUMENTS

HALF_COMMITS = {"file": 1.0, "commit": 0.5, "chat": 1.0}


@pytest.mark.parametrize(
    ("tokens", "caps", "kept"),
    [
        ({"file": 50, "commit": 300, "chat": 50}, HALF_COMMITS, [50, 100, 50]),
        ({"file": 50, "commit": 30, "chat": 50}, HALF_COMMITS, [50, 30, 50]),
        ({"file": 0, "commit": 300, "chat": 0}, HALF_COMMITS, [0, 300, 0]),  # or nothing is kept
        (
            {"file": 100, "commit": 100, "chat": 100},
            {"file": 1, "commit": 0, "chat": 1},
            [100, 0, 100],
        ),
    ],
)
def test_no_kind_exceeds_its_cap_of_what_is_kept(
    tokens: dict[str, int], caps: dict[str, float], kept: list[int]
) -> None:
    fractions = kept_fractions(tokens, caps)
    assert [round(fractions[kind] * count) for kind, count in tokens.items()] == kept


@given(
    st.tuples(*[st.integers(0, 10**6)] * 3),
    st.tuples(*[st.floats(0.2, 1)] * 3).filter(lambda caps: sum(caps) >= 1),
)
def test_something_is_always_kept(tokens: tuple[int, ...], caps: tuple[float, ...]) -> None:
    kinds = ("file", "commit", "chat")
    fractions = kept_fractions(
        dict(zip(kinds, tokens, strict=True)), dict(zip(kinds, caps, strict=True))
    )
    kept = [fractions[kind] * count for kind, count in zip(kinds, tokens, strict=True)]
    assert sum(kept) > 0 or sum(tokens) == 0
    assert all(0 <= fraction <= 1 for fraction in fractions.values())


def test_caps_that_sum_to_less_than_one_are_an_error() -> None:
    with pytest.raises(ValidationError, match="must sum to at least 1"):
        Mix(file=0.2, commit=0.2, chat=0.2)


def table(folder: Path, *rows: tuple[str, str, int, int]) -> ParquetTable:
    """Write documents of given id, split, tokens and day; the id starts with the kind."""
    records = [
        {
            "document_id": name, "kind": name.split("/")[0].split("-")[0], "split": split,
            "source": "", "authored_at": datetime(2026, 1, day, tzinfo=UTC), "segments": [],
            "input_ids": [], "labels_mask": [], "n_tokens": n_tokens, "stage": 0,
        }
        for name, split, n_tokens, day in rows
    ]  # fmt: skip
    return save_table(folder, DOCUMENTS, [pa.RecordBatch.from_pylist(records, DOCUMENTS)])


def test_long_old_commits_are_excluded_first_then_the_longest(tmp_path: Path) -> None:
    documents = table(
        tmp_path,
        ("file/a", "train", 100, 1),
        ("commit/new-long", "train", 80, 9),
        ("commit/short", "train", 30, 2),
        ("commit/old-long", "train", 60, 3),
        ("commit/shorter", "train", 20, 1),
        ("commit/held", "held_out", 500, 1),
        ("chat/whole", "train", 400, 1),  # fits no row, so it does not count
    )
    # 190 tokens of commits; at most half of the total is kept: 100 beside 100 of files.
    excluded = excluded_by_mix(documents, Mix(), context_tokens=50)
    assert excluded.tolist() == [False, False, True, True, False, False, False]
    assert not excluded_by_mix(documents, Mix(commit=1.0), 50).any()
    no_commits = excluded_by_mix(documents, Mix(commit=0.0), 50)
    assert no_commits.tolist() == [False, True, True, True, True, False, False]


def test_of_other_kinds_the_longest_are_excluded(tmp_path: Path) -> None:
    rows = [(f"file/{n}", "train", n, 1) for n in (10, 40, 30, 20)]
    documents = table(tmp_path, ("commit/a", "train", 50, 1), *rows)
    excluded = excluded_by_mix(documents, Mix(file=0.5), context_tokens=100)
    # 100 tokens of files beside 50 of commits are 50 too many: the longest, then what still fits.
    assert excluded.tolist() == [False, True, True, False, False]
