"""Notebooks keep their cells and text output, remain JSON, and keep the numbers of their lines."""

import base64
import difflib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.pipelines.git_ingest.filters.notebooks import (
    reduce_notebook,
    reduce_notebook_patch,
)

PICTURE = base64.b64encode(random.Random(3).randbytes(6000)).decode()


def output(data: dict[str, Any]) -> dict[str, Any]:
    return {"data": data, "metadata": {"needs": "light"}, "output_type": "display_data"}


def notebook(source: str = "plot_areas(shapes)\n") -> dict[str, Any]:
    outputs = [
        output({"image/png": PICTURE, "text/plain": ["<Figure>"]}),
        output({"image/svg+xml": ["<svg>\n", "</svg>"], "text/plain": ["<Picture>"]}),
        output({"text/html": ["<table>\n", "</table>"], "text/plain": ["   a  b\n", "0  1  2"]}),
        output({"text/html": ["<b>only this</b>"]}),
        output({"application/vnd.jupyter.widget-view+json": {"model_id": "f00"}}),
        {"name": "stdout", "output_type": "stream", "text": [f"row {i}\n" for i in range(100)]},
        {"name": "stdout", "output_type": "stream", "text": ["\\u0" * 2000]},
        {"ename": "E", "output_type": "error", "traceback": ["\x1b[0;31mValueError\x1b[0m: bad"]},
    ]
    prose = ["# Areas\n", f"![inline](data:image/png;base64,{PICTURE})"]
    return {
        "cells": [
            {"cell_type": "markdown", "metadata": {"collapsed": True}, "source": prose},
            {
                "cell_type": "code",
                "execution_count": 1,
                "metadata": {},
                "outputs": outputs,
                "source": [source, 'x = {\n', '"text/html": [1],\n', "}\n", "r = '\\u001b[31m'"],
            },
        ],
        "metadata": {"kernelspec": {"name": "python3"}, "widgets": {"state": {"a": [1, 2]}}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip


@pytest.mark.parametrize("indent", [1, 2, 4])
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_cells_and_text_output_are_kept(indent: int, line_break: str) -> None:
    text = json.dumps(notebook(), indent=indent).replace("\n", line_break)
    reduced = reduce_notebook(text)
    assert reduced.count("\n") == text.count("\n")
    found, whole = json.loads(reduced), notebook()
    assert found["metadata"] == {}
    assert [cell["source"] for cell in found["cells"]] == [c["source"] for c in whole["cells"]]
    outputs = found["cells"][1]["outputs"]
    assert outputs[0]["data"] == {"image/png": "[8 kB removed]", "text/plain": ["<Figure>"]}
    assert outputs[1]["data"]["text/plain"] == ["<Picture>"]
    assert outputs[2]["data"]["text/plain"] == ["   a  b\n", "0  1  2"]
    assert isinstance(outputs[2]["data"]["text/html"], str)
    assert outputs[3]["data"]["text/html"] == ["<b>only this</b>"]
    assert outputs[5]["text"] == [*(f"row {i}\n" for i in range(40)), "[60 lines removed]"]
    assert len(outputs[6]["text"][0]) < 1100
    assert outputs[7]["traceback"] == ["ValueError: bad"]


def test_a_notebook_in_one_line_is_indented() -> None:
    found = json.loads(reduce_notebook(json.dumps(notebook())))
    assert found["cells"][1]["source"] == notebook()["cells"][1]["source"]
    assert found["metadata"] == {}


def test_what_is_no_json_is_kept_as_it_is() -> None:
    for text in ("", "{", "no notebook at all\n", '{"metadata": {'):
        assert reduce_notebook(text) == text


@pytest.mark.parametrize("n_context", [0, 3, 50])
def test_a_patch_keeps_its_number_of_lines(n_context: int) -> None:
    old, new = notebook(), notebook("plot_perimeters(shapes)\n")
    new["cells"][1]["outputs"][1]["data"]["image/svg+xml"] = ["<svg>\n", "<path/>\n", "</svg>"]
    old_lines, new_lines = (json.dumps(n, indent=1).splitlines() for n in (old, new))
    diff = difflib.unified_diff(old_lines, new_lines, n=n_context, lineterm="")
    hunks = "\n".join([*list(diff)[2:], ""])
    reduced = reduce_notebook_patch(hunks)
    assert [line[:1] for line in reduced.split("\n")] == [line[:1] for line in hunks.split("\n")]
    assert '+    "plot_perimeters(shapes)\\n",' in reduced
    if n_context:
        assert "<path/>" not in reduced


def test_files_and_patches_in_the_tables_hold_no_picture(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    for source in ("plot_areas(shapes)\n", "plot_perimeters(shapes)\n"):
        text = json.dumps(notebook(source), indent=1)
        page = f"# Areas of shapes\n\n{source}\n![plot](data:image/png;base64,{PICTURE})\n"
        repository.commit(f"Show {source}", {"areas.ipynb": text, "areas.md": page})
    result = ingest(repository.path, tmp_path / "out", max_patch_bytes=9000)
    texts = result.rows("snapshot_files", "path", "text", "kept")
    texts += result.rows("file_changes", "path", "patch", "kept")
    assert len(texts) == 6
    for _, text, kept in texts:
        assert kept
        assert "plot_" in text
        assert PICTURE[:100] not in text
    removed = result.report["history"][0]["payloads_removed"]
    assert removed["base64"]["number"] >= 4
    assert removed["notebook output"]["bytes"] > 0
