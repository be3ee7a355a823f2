"""Each notebook runs from the first cell to the last, on a small project with a tiny model."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PIPELINES = {"git_ingest", "sequence_build", "qlora_train", "behavioral_eval", "export"}


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_is_one_for_each_pipeline_and_a_tour() -> None:
    assert {notebook.stem for notebook in NOTEBOOKS} == PIPELINES | {"tour"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_nothing_of_a_machine_and_no_logic_is_committed(notebook: Path) -> None:
    for cell in code_cells(notebook):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        source = "".join(cell["source"])
        assert "/home/" not in source
        assert ":\\" not in source
        python = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
        kinds = {type(node) for node in ast.walk(ast.parse(python))}
        assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.While, ast.For, ast.Lambda}


@pytest.mark.slow
def test_every_notebook_runs(finished_project: Path) -> None:
    folder = finished_project / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, dirs_exist_ok=True)
    # What they do to the tables they undo; in the order of the pipelines, so do their runs.
    order = ["tour", "git_ingest", "sequence_build", "qlora_train", "behavioral_eval", "export"]
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=300", "-q", "-x",
            "-p", "no:xdist", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder),
            *(str(folder / f"{name}.ipynb") for name in order),
        ],
        cwd=folder, env={**os.environ, "KEDRO_ENV": "test"}, text=True, check=False, timeout=900,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"{len(order)} passed" in done.stdout
