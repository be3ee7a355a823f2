from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.pipelines.sequence_build.packing.mixture import kept_shares, left_out_by_mix
from the_block_llm.pipelines.sequence_build.params import Mix
from the_block_llm.schemas import DOCUMENTS

HALF_COMMITS = {"file": 1.0, "commit": 0.5, "chat": 1.0}


@pytest.mark.parametrize(
    ("tokens", "caps", "kept"),
    [
        ({"file": 50, "commit": 300, "chat": 50}, HALF_COMMITS, [50, 100, 50]),
        ({"file": 50, "commit": 30, "chat": 50}, HALF_COMMITS, [50, 30, 50]),
        ({"file": 0, "commit": 300, "chat": 0}, HALF_COMMITS, [0, 300, 0]),  # or nothing is left
        (
            {"file": 100, "commit": 100, "chat": 100},
            {"file": 1, "commit": 0, "chat": 1},
            [100, 0, 100],
        ),
    ],
)
def test_no_kind_takes_more_than_its_share_of_what_stays(
    tokens: dict[str, int], caps: dict[str, float], kept: list[int]
) -> None:
    shares = kept_shares(tokens, caps)
    assert [round(shares[kind] * count) for kind, count in tokens.items()] == kept


@given(
    st.tuples(*[st.integers(0, 10**6)] * 3),
    st.tuples(*[st.floats(0.2, 1)] * 3).filter(lambda caps: sum(caps) >= 1),
)
def test_something_always_stays(tokens: tuple[int, ...], caps: tuple[float, ...]) -> None:
    kinds = ("file", "commit", "chat")
    shares = kept_shares(dict(zip(kinds, tokens, strict=True)), dict(zip(kinds, caps, strict=True)))
    kept = [shares[kind] * count for kind, count in zip(kinds, tokens, strict=True)]
    assert sum(kept) > 0 or sum(tokens) == 0
    assert all(0 <= share <= 1 for share in shares.values())


def test_shares_that_leave_room_for_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="must sum to at least 1"):
        Mix(file=0.2, commit=0.2, chat=0.2)


def table(folder: Path, *rows: tuple[str, str, int, int]) -> ParquetTable:
    """Documents by id, side, tokens and day; the kind is the first part of the id."""
    made = [
        {
            "document_id": name, "kind": name.split("/")[0].split("-")[0], "split": split,
            "source": "", "authored_at": datetime(2026, 1, day, tzinfo=UTC), "segments": [],
            "input_ids": [], "labels_mask": [], "n_tokens": n_tokens, "stage": 0,
        }
        for name, split, n_tokens, day in rows
    ]  # fmt: skip
    return save_table(folder, DOCUMENTS, [pa.RecordBatch.from_pylist(made, DOCUMENTS)])


def test_long_old_commits_go_first_then_the_longest(tmp_path: Path) -> None:
    documents = table(
        tmp_path,
        ("file/a", "train", 100, 1),
        ("commit/new-long", "train", 80, 9),
        ("commit/short", "train", 30, 2),
        ("commit/old-long", "train", 60, 3),
        ("commit/shorter", "train", 20, 1),
        ("commit/held", "held_out", 500, 1),
        ("chat/whole", "train", 400, 1),  # fits no row, so it takes no share
    )
    # 190 tokens of commits, of which half of all may stay: 100 beside 100 of files.
    out = left_out_by_mix(documents, Mix(), context_tokens=50)
    assert out.tolist() == [False, False, True, True, False, False, False]
    assert not left_out_by_mix(documents, Mix(commit=1.0), 50).any()
    none = left_out_by_mix(documents, Mix(commit=0.0), 50)
    assert none.tolist() == [False, True, True, True, True, False, False]


def test_of_other_kinds_the_longest_go(tmp_path: Path) -> None:
    rows = [(f"file/{n}", "train", n, 1) for n in (10, 40, 30, 20)]
    documents = table(tmp_path, ("commit/a", "train", 50, 1), *rows)
    out = left_out_by_mix(documents, Mix(file=0.5), context_tokens=100)
    # 100 tokens of files beside 50 of commits: 50 too many. The longest, then what still fits.
    assert out.tolist() == [False, True, True, False, False]
