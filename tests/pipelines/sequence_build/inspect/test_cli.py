"""Seeing a row, and finding what training says that is nearest to a held-back document."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.text import Text

from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.datasets.project import Project
from the_block_llm.errors import ParameterError, StaleDataError
from the_block_llm.pipelines.sequence_build.dedup.leak_check import Leak
from the_block_llm.pipelines.sequence_build.dedup.screening import Screening
from the_block_llm.pipelines.sequence_build.inspect import cli
from the_block_llm.pipelines.sequence_build.inspect.nearest import (
    Neighbour,
    nearest_training_documents,
)
from the_block_llm.pipelines.sequence_build.inspect.row_view import marked_lines, show_row
from the_block_llm.pipelines.sequence_build.packing.chunking import Chunk, extend_chunks
from the_block_llm.schemas import DOCUMENTS, ROWS

AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_row_shows_its_segments_and_what_is_learned(tmp_path: Path, smollm2: Any) -> None:
    shown, learned = (smollm2(text)["input_ids"] for text in ("File a.py:\n", "x = 1\n"))
    row = {
        "input_ids": [*shown, *learned, *learned],
        "labels_mask": [False] * len(shown) + [True] * len(learned) * 2,
        "segment_lengths": [len(shown) + len(learned), len(learned)],
        "document_ids": ["file/a.py", "file/b.py"],
        "n_tokens": len(shown) + 2 * len(learned),
        "stage": 0,
    }
    rows = save_table(tmp_path, ROWS, [pa.RecordBatch.from_pylist([row], ROWS)])
    text = show_row(rows, 0, smollm2)
    assert "file/b.py · 5 tokens, 5 learned" in text.plain
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert styles["File a.py:\n"] == "dim"
    assert styles["x = 1\n"] == "green"
    with pytest.raises(ParameterError, match="no row 1 .*rows 0 to 0"):
        show_row(rows, 1, smollm2)


def documents(folder: Path, **texts: tuple[str, str]) -> ParquetTable:
    rows = [
        {
            "document_id": f"file/{name}",
            "kind": "file",
            "split": split,
            "source": name,
            "authored_at": AT,
            "segments": [{"text": text, "train": True}],
            "input_ids": [],
            "labels_mask": [],
            "n_tokens": 0,
            "stage": 0,
        }
        for name, (split, text) in texts.items()
    ]
    return save_table(folder, DOCUMENTS, [pa.RecordBatch.from_pylist(rows, DOCUMENTS)])


def test_the_nearest_training_document_is_named_with_its_similarity(tmp_path: Path) -> None:
    table = documents(
        tmp_path,
        same=("train", "one two three four\nfive six seven eight\n"),
        half=("train", "one two three four\nnine ten eleven twelve\n"),
        other=("train", "nothing in common at all\n"),
        unseen=("held_out", "not looked at\n"),
        new=("held_out", "one two three four\nfive six seven eight\n"),
    )
    assert nearest_training_documents(table, "file/new", 2) == [
        Neighbour("file/same", 1.0, 1.0),
        Neighbour("file/half", 0.2, 0.5),
    ]


def test_only_held_back_documents_are_audited(tmp_path: Path) -> None:
    table = documents(tmp_path, a=("train", "text\n"))
    with pytest.raises(ParameterError, match="is trained on"):
        nearest_training_documents(table, "file/a")
    with pytest.raises(ParameterError, match="is not in the table"):
        nearest_training_documents(table, "file/b")


def test_room_goes_to_context_first_and_then_to_the_text_that_follows() -> None:
    first, last = Chunk(0, 0, 0, 0, 5), Chunk(0, 0, 3, 5, 9)
    assert extend_chunks([first, last], [[0], [1]], 8, [4, 8]) == [
        Chunk(0, 0, 0, 0, 8),
        Chunk(0, 0, 1, 8, 9),
    ]
    # In one row there is nothing to move.
    assert extend_chunks([first, last], [[0, 1]], 11, [4, 8]) == [first, last]
    # Another document's text does not follow.
    assert extend_chunks([first, Chunk(1, 0, 0, 0, 4)], [[0], [1]], 6, [4, 3])[0] == first


def test_without_colours_lines_that_are_learned_are_marked() -> None:
    text = Text("rule\n", "bold").append("shown\n", "dim").append("one\ntwo", "green").append("\n")
    assert marked_lines(text) == "  rule\n  shown\n▸ one\n▸ two"


def prepared(folder: Path, model: Any = None) -> Any:
    parameters = {"models": {"m": model.model_dump()} if model else {}, "model": "m"}
    return lambda env, profile: Project(parameters, lambda name: folder / name)


def test_the_command_rows_writes_a_row_into_a_pipe(
    tmp_path: Path, smollm2: Any, smollm2_profile: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, learned = (smollm2(text)["input_ids"] for text in ("File a.py:\n", "x = '[red]'\n"))
    row = {
        "input_ids": [*shown, *learned],
        "labels_mask": [False] * len(shown) + [True] * len(learned),
        "segment_lengths": [len(shown) + len(learned)],
        "document_ids": ["file/a.py"],
        "n_tokens": len(shown) + len(learned),
        "stage": 0,
    }
    save_table(tmp_path / "held_out_rows", ROWS, [pa.RecordBatch.from_pylist([row], ROWS)])
    cli.rows(
        prepared(tmp_path, smollm2_profile), split="held_out", row=0, samples=None, sort="",
        profile=None, env=None,
    )  # fmt: skip
    out = capsys.readouterr().out
    assert out.splitlines()[1:] == ["  File a.py:", "▸ x = '[red]'"]


def test_samples_show_segments_of_each_sort_once(
    tmp_path: Path, smollm2: Any, smollm2_profile: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, learned = (smollm2(text)["input_ids"] for text in ("Asked\n", "Said\n" * 60))
    names = ["file/a.py", "file/b.py", "chat/why/1", "file/a.py"]
    rows = [
        {
            "input_ids": [*shown, *learned] * 2,
            "labels_mask": ([False] * len(shown) + [True] * len(learned)) * 2,
            "segment_lengths": [len(shown) + len(learned)] * 2,
            "document_ids": names[at : at + 2],
            "n_tokens": 2 * (len(shown) + len(learned)),
            "stage": 0,
        }
        for at in (0, 2)
    ]
    save_table(tmp_path / "train_rows", ROWS, [pa.RecordBatch.from_pylist(rows, ROWS)])
    choices = {"split": "train", "row": 0, "samples": 10, "profile": None, "env": None}
    cli.rows(prepared(tmp_path, smollm2_profile), sort="", **choices)
    page = capsys.readouterr().out
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## file", "## chat/why",
    ]  # fmt: skip
    assert page.count("── file/a.py · ") == 1
    assert "  Asked\n▸ Said\n" in page
    assert "  … 26 more lines\n````" in page  # a rule, Asked and 60 lines are 62
    cli.rows(prepared(tmp_path, smollm2_profile), sort="chat", **choices)
    assert "## file" not in capsys.readouterr().out
    with pytest.raises(ParameterError, match=r"sort 'commit'.*There are: chat/why, file"):
        cli.rows(prepared(tmp_path, smollm2_profile), sort="commit", **choices)


def test_the_command_audit_names_the_nearest_or_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents(
        tmp_path / "documents",
        same=("train", "one two three four\nfive six seven eight\n"),
        new=("held_out", "one two three four\nfive six seven eight\n"),
        newer=("held_out", "something else\n"),
    )
    command = {"neighbours": 5, "removed": False, "profile": None, "env": None}
    cli.audit(prepared(tmp_path), item=None, **command)
    assert capsys.readouterr().out == "file/new\nfile/newer\n"
    cli.audit(prepared(tmp_path), item="file/new", **command)
    assert "1.000    1.000        1.000  file/same" in capsys.readouterr().out
    with pytest.raises(ParameterError, match="'file/n' is in the id of 2 held-back documents"):
        cli.audit(prepared(tmp_path), item="file/n", **command)
    with pytest.raises(ParameterError, match="of none"):
        cli.audit(prepared(tmp_path), item="absent", **command)


def test_the_command_audit_names_what_was_removed_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents(tmp_path / "documents", a=("train", "text\n"), b=("held_out", "other\n"))
    leaks = (
        Leak("commit/1f", "1f", "held_out", "revert", "0a", 1.0),
        Leak("chat/file/c", "c.py", "held_out", "known_lines", "file/[a]", 0.75),
    )
    twice = {"train": {"chat/file/e": "chat/file/d"}}
    found = Screening(leaks, twice, {}, validation_repeats=False)
    (tmp_path / "screening").write_text(json.dumps(found.to_json()))
    command = {"neighbours": 5, "profile": None, "env": None}
    cli.audit(prepared(tmp_path), item=None, removed=True, **command)
    assert capsys.readouterr().out.split("\n")[1:] == [
        "     1.000  revert           commit/1f (1f)",
        "                             0a",
        "     0.750  known_lines      chat/file/c (c.py)",
        "                             file/[a]",
        "     1.000  duplicate        chat/file/e",
        "                             chat/file/d",
        "",
    ]
    cli.audit(prepared(tmp_path), item="chat/file/c", removed=False, **command)
    assert capsys.readouterr().out.startswith("chat/file/c was removed: training says")
    cli.audit(prepared(tmp_path), item="chat/file/e", removed=False, **command)
    assert capsys.readouterr().out.startswith("chat/file/e was removed: another says the same.")
    earlier = (
        {"leaks": [{"document_id": "commit/1f"}]},
        {"leaks": [], "duplicates": {"train": []}},
    )
    for of_another_version in earlier:
        (tmp_path / "screening").write_text(json.dumps(of_another_version))
        with pytest.raises(StaleDataError, match="kedro run --pipeline=sequence_build"):
            cli.audit(prepared(tmp_path), item=None, removed=True, **command)
