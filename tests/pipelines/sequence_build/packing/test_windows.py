"""Packing windows: any number of processes writes the same bytes."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.models.profiles import ModelProfile, ModelProfiles
from the_block_llm.pipelines.sequence_build import nodes
from the_block_llm.pipelines.sequence_build.packing import windows
from the_block_llm.pipelines.sequence_build.packing.windows import plan_windows
from the_block_llm.pipelines.sequence_build.params import Mix, RowShape, SequenceBuildParams
from the_block_llm.schemas import DOCUMENTS, ROWS

SHAPE = RowShape(64, 8)


def documents(folder: Path, rows: list[tuple[str, int, int]]) -> ParquetTable:
    """Write a table of documents of given split, stage and tokens."""
    records = [
        {
            "document_id": f"file/{number}", "kind": "file", "split": split, "source": "a.py",
            "authored_at": datetime(2026, 1, 1, tzinfo=UTC), "segments": [],
            "input_ids": [1] * n_tokens, "labels_mask": [True] * n_tokens,
            "n_tokens": n_tokens, "stage": stage,
        }
        for number, (split, stage, n_tokens) in enumerate(rows)
    ]  # fmt: skip
    return save_table(folder, DOCUMENTS, [pa.Table.from_pylist(records, DOCUMENTS)], part_bytes=1)


def bounds(planned: list[windows.Window]) -> list[tuple[int, int, int]]:
    return [(window.stage, window.rows.start, window.rows.stop) for window in planned]


def test_a_window_ends_at_its_token_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_MAX_WINDOW_TOKENS", 30)
    table = documents(
        tmp_path / "d",
        [("held_out", 0, 9), ("train", 0, 20), ("held_out", 0, 50), ("train", 0, 9),
         ("train", 0, 2), ("train", 0, 30), ("train", 0, 1), ("validation", 0, 1)],
    )  # fmt: skip
    assert bounds(plan_windows(table, "train", SHAPE)) == [(0, 1, 5), (0, 5, 6), (0, 6, 7)]
    assert bounds(plan_windows(table, "held_out", SHAPE)) == [(0, 0, 3)]
    excluded = np.array([False, True, False, False, False, False, False, False])
    [first, last] = plan_windows(table, "train", SHAPE, excluded)
    assert bounds([first, last]) == [(0, 3, 6), (0, 6, 7)]
    assert first.included(0, 8).tolist() == [False, False, False, True, True, True, False, False]


def test_each_stage_has_separate_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_MAX_WINDOW_TOKENS", 10)
    table = documents(
        tmp_path / "d", [("train", 2, 6), ("train", 1, 6), ("train", 2, 6), ("train", 1, 1)]
    )
    shape = RowShape(64, 8, stage_tokens=(32, 64))
    assert bounds(plan_windows(table, "train", shape)) == [(1, 1, 4), (2, 0, 3)]


def test_only_row_groups_of_the_range_are_read(tmp_path: Path) -> None:
    table = documents(tmp_path / "d", [("train", 0, n) for n in (3, 4, 5, 6)])
    assert len(table.parts) == 1
    table = save_table(tmp_path / "e", DOCUMENTS, [*table.parts, *table.parts])
    read = list(table.batches_containing("split", "train", ["n_tokens"], rows=range(5, 7)))
    assert [(begin, batch.num_rows) for begin, batch in read] == [(4, 4)]


def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = long_story.tables(tmp_path, 0.85)
    choices = (
        ModelProfiles({"m": smollm2_profile}), "m",
        SequenceBuildParams(mix=Mix(file=0.4, commit=0.4, chat=0.3)),
    )  # fmt: skip
    inputs = (tables.repository, tables.commits, tables.file_changes, tables.snapshot_files)
    screening = nodes.screen_documents(*inputs, *choices)
    table = save_table(
        tmp_path / "documents", DOCUMENTS, nodes.render_documents(*inputs, screening, *choices)
    )
    one_window = save_table(tmp_path / "one_window", ROWS, nodes.pack_train(table, *choices))
    assert len(one_window.parts) == 1
    monkeypatch.setattr(windows, "_MAX_WINDOW_TOKENS", 2000)
    found: list[list[bytes]] = []
    for n_processes in (1, 3):
        engine = ExecutionParams(cpus=n_processes)
        packed = nodes.pack_train(table, *choices, engine)
        rows = save_table(tmp_path / str(n_processes), ROWS, packed)
        found.append([part.read_bytes() for part in rows.parts])
    assert len(found[0]) > 3
    assert found[0] == found[1]
    # The targets are the same, whichever documents share a row.
    assert _target_counts(rows) == _target_counts(one_window)


def _target_counts(rows: ParquetTable) -> dict[str, int]:
    targets: dict[str, int] = {}
    for row in rows.rows(["segment_lengths", "document_ids", "labels_mask"]):
        start = 0
        for length, name in zip(row["segment_lengths"], row["document_ids"], strict=True):
            targets[name] = targets.get(name, 0) + sum(row["labels_mask"][start : start + length])
            start += length
    return targets
