"""Commands ``kedro rows`` and ``kedro audit``."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.text import Text

from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.datasets.project import Project
from the_block_llm.datasets.report_files import write_report
from the_block_llm.errors import ParameterError, StaleDataError
from the_block_llm.pipelines.sequence_build.dedup.near_duplicates import Leak
from the_block_llm.pipelines.sequence_build.dedup.screening import Screening
from the_block_llm.pipelines.sequence_build.inspect import cli
from the_block_llm.pipelines.sequence_build.inspect.nearest import (
    Neighbor,
    nearest_training_documents,
)
from the_block_llm.pipelines.sequence_build.inspect.row_view import plain_text, render_row
from the_block_llm.pipelines.sequence_build.packing.chunking import Chunk, extend_chunks
from the_block_llm.schemas import DOCUMENTS, ROWS

AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_row_view_shows_segments_targets_and_context(tmp_path: Path, smollm2: Any) -> None:
    context, target = (smollm2(text)["input_ids"] for text in ("File a.py:\n", "x = 1\n"))
    row = {
        "input_ids": [*context, *target, *target],
        "labels_mask": [False] * len(context) + [True] * len(target) * 2,
        "segment_lengths": [len(context) + len(target), len(target)],
        "document_ids": ["file/a.py", "file/b.py"],
        "n_tokens": len(context) + 2 * len(target),
        "stage": 0,
    }
    rows = save_table(tmp_path, ROWS, [pa.RecordBatch.from_pylist([row], ROWS)])
    text = render_row(rows, 0, smollm2)
    assert "file/b.py · 5 tokens, 5 learned" in text.plain
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert styles["File a.py:\n"] == "dim"
    assert styles["x = 1\n"] == "green"
    with pytest.raises(ParameterError, match="no row 1 .*rows 0 to 0"):
        render_row(rows, 1, smollm2)


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


def test_nearest_documents_are_ranked_by_similarity(tmp_path: Path) -> None:
    table = documents(
        tmp_path,
        same=("train", "one two three four\nfive six seven eight\n"),
        half=("train", "one two three four\nnine ten eleven twelve\n"),
        other=("train", "nothing in common at all\n"),
        unseen=("held_out", "not looked at\n"),
        new=("held_out", "one two three four\nfive six seven eight\n"),
    )
    assert nearest_training_documents(table, "file/new", 2) == [
        Neighbor("file/same", 1.0, 1.0),
        Neighbor("file/half", 0.2, 0.5),
    ]


def test_nearest_documents_of_a_training_document_are_an_error(tmp_path: Path) -> None:
    table = documents(tmp_path, a=("train", "text\n"))
    with pytest.raises(ParameterError, match="is a training document"):
        nearest_training_documents(table, "file/a")
    with pytest.raises(ParameterError, match="is not in the table"):
        nearest_training_documents(table, "file/b")


def test_spare_capacity_extends_the_context_first_then_the_next_chunk() -> None:
    first, last = Chunk(0, 0, 0, 0, 5), Chunk(0, 0, 3, 5, 9)
    assert extend_chunks([first, last], [[0], [1]], 8, [4, 8]) == [
        Chunk(0, 0, 0, 0, 8),
        Chunk(0, 0, 1, 8, 9),
    ]
    # In one row there is nothing to move.
    assert extend_chunks([first, last], [[0, 1]], 11, [4, 8]) == [first, last]
    # Another document's text does not follow.
    assert extend_chunks([first, Chunk(1, 0, 0, 0, 4)], [[0], [1]], 6, [4, 3])[0] == first


def test_plain_text_marks_lines_with_targets() -> None:
    text = Text("rule\n", "bold").append("shown\n", "dim").append("one\ntwo", "green").append("\n")
    assert plain_text(text) == "  rule\n  shown\n▸ one\n▸ two"


def project_opener(folder: Path, model: Any = None) -> Any:
    parameters = {"models": {"m": model.model_dump()} if model else {}, "model": "m"}
    return lambda env, profile: Project(
        parameters, lambda name: folder / (f"{name}.json" if name == "screening" else name)
    )


def test_rows_command_prints_plain_text_to_a_pipe(
    tmp_path: Path, smollm2: Any, smollm2_profile: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    context, target = (smollm2(text)["input_ids"] for text in ("File a.py:\n", "x = '[red]'\n"))
    row = {
        "input_ids": [*context, *target],
        "labels_mask": [False] * len(context) + [True] * len(target),
        "segment_lengths": [len(context) + len(target)],
        "document_ids": ["file/a.py"],
        "n_tokens": len(context) + len(target),
        "stage": 0,
    }
    save_table(tmp_path / "held_out_rows", ROWS, [pa.RecordBatch.from_pylist([row], ROWS)])
    cli.rows(
        project_opener(tmp_path, smollm2_profile), split="held_out", row=0, samples=None,
        type_prefix="", profile=None, env=None,
    )  # fmt: skip
    out = capsys.readouterr().out
    assert out.splitlines()[1:] == ["  File a.py:", "▸ x = '[red]'"]


def test_samples_have_every_document_type_and_no_document_twice(
    tmp_path: Path, smollm2: Any, smollm2_profile: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    context, target = (smollm2(text)["input_ids"] for text in ("Asked\n", "Said\n" * 60))
    names = ["file/a.py", "file/b.py", "chat/why/1", "file/a.py"]
    rows = [
        {
            "input_ids": [*context, *target] * 2,
            "labels_mask": ([False] * len(context) + [True] * len(target)) * 2,
            "segment_lengths": [len(context) + len(target)] * 2,
            "document_ids": names[at : at + 2],
            "n_tokens": 2 * (len(context) + len(target)),
            "stage": 0,
        }
        for at in (0, 2)
    ]
    save_table(tmp_path / "train_rows", ROWS, [pa.RecordBatch.from_pylist(rows, ROWS)])
    choices = {"split": "train", "row": 0, "samples": 10, "profile": None, "env": None}
    cli.rows(project_opener(tmp_path, smollm2_profile), type_prefix="", **choices)
    page = capsys.readouterr().out
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## file", "## chat/why",
    ]  # fmt: skip
    assert page.count("── file/a.py · ") == 1
    assert "  Asked\n▸ Said\n" in page
    assert "  … 26 more lines\n````" in page  # 62 lines: a rule, Asked and 60 more
    cli.rows(project_opener(tmp_path, smollm2_profile), type_prefix="chat", **choices)
    assert "## file" not in capsys.readouterr().out
    with pytest.raises(ParameterError, match=r"type 'commit'.*Available types: chat/why, file"):
        cli.rows(project_opener(tmp_path, smollm2_profile), type_prefix="commit", **choices)


def test_audit_command_prints_the_nearest_or_lists_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents(
        tmp_path / "documents",
        same=("train", "one two three four\nfive six seven eight\n"),
        new=("held_out", "one two three four\nfive six seven eight\n"),
        newer=("held_out", "something else\n"),
    )
    command = {"n_neighbors": 5, "removed": False, "profile": None, "env": None}
    cli.audit(project_opener(tmp_path), item=None, **command)
    assert capsys.readouterr().out == "file/new\nfile/newer\n"
    cli.audit(project_opener(tmp_path), item="file/new", **command)
    assert "1.000    1.000        1.000  file/same" in capsys.readouterr().out
    with pytest.raises(ParameterError, match="'file/n' is part of 2 document ids"):
        cli.audit(project_opener(tmp_path), item="file/n", **command)
    with pytest.raises(ParameterError, match="is not part of any document id"):
        cli.audit(project_opener(tmp_path), item="absent", **command)


def test_audit_command_lists_removed_documents_with_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents(tmp_path / "documents", a=("train", "text\n"), b=("held_out", "other\n"))
    leaks = (
        Leak("commit/1f", "1f", "held_out", "revert", "0a", 1.0),
        Leak("chat/file/c", "c.py", "held_out", "known_lines", "file/[a]", 0.75),
    )
    duplicates = {"train": {"chat/file/e": "chat/file/d"}}
    found = Screening(leaks, duplicates, {}, validation_repeats=False)
    write_report(tmp_path / "screening.json", found.to_json())
    command = {"n_neighbors": 5, "profile": None, "env": None}
    cli.audit(project_opener(tmp_path), item=None, removed=True, **command)
    assert capsys.readouterr().out.split("\n")[1:] == [
        "     1.000  revert           commit/1f (1f)",
        "                             0a",
        "     0.750  known_lines      chat/file/c (c.py)",
        "                             file/[a]",
        "     1.000  duplicate        chat/file/e",
        "                             chat/file/d",
        "",
    ]
    cli.audit(project_opener(tmp_path), item="chat/file/c", removed=False, **command)
    assert capsys.readouterr().out.startswith("chat/file/c was removed: it leaks into training.")
    cli.audit(project_opener(tmp_path), item="chat/file/e", removed=False, **command)
    assert capsys.readouterr().out.startswith("chat/file/e was removed: it duplicates")
    outdated = (
        {"leaks": [{"document_id": "commit/1f"}]},
        {"leaks": [], "duplicates": {"train": []}},
    )
    for screening in outdated:
        write_report(tmp_path / "screening.json", screening)
        with pytest.raises(StaleDataError, match="kedro run --pipeline=sequence_build"):
            cli.audit(project_opener(tmp_path), item=None, removed=True, **command)
