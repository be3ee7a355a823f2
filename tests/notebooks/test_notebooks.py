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
import yaml
from tests.builders.project import copy_project

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PIPELINES = {"git_ingest", "sequence_build", "qlora_train", "behavioral_eval", "export"}


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_is_a_notebook_for_each_pipeline_and_a_tour() -> None:
    assert {notebook.stem for notebook in NOTEBOOKS} == PIPELINES | {"tour"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebooks_have_no_output_paths_or_logic(notebook: Path) -> None:
    for cell in code_cells(notebook):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        source = "".join(cell["source"])
        assert "/home/" not in source
        assert ":\\" not in source
        python = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
        kinds = {type(node) for node in ast.walk(ast.parse(python))}
        assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.While, ast.For, ast.Lambda}


def run_notebooks(project: Path, *names: str) -> subprocess.CompletedProcess[str]:
    folder = project / "notebooks"
    # Rich draws tracebacks as ordinary output, in which nbmake sees no error.
    settings = yaml.safe_load((ROOT / "conf/logging.yml").read_text(encoding="utf-8"))
    settings["handlers"]["console"]["rich_tracebacks"] = False
    logging = project / "logging.yml"
    logging.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=300", "-q", "-x",
            "-p", "no:xdist", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder),
            *(str(folder / f"{name}.ipynb") for name in names),
        ],
        cwd=folder, text=True, check=False, timeout=900,
        env={**os.environ, "KEDRO_ENV": "test", "KEDRO_LOGGING_CONFIG": str(logging)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.slow
def test_every_notebook_runs(finished_project: Path) -> None:
    shutil.copytree(ROOT / "notebooks", finished_project / "notebooks", dirs_exist_ok=True)
    # What they do to the tables they undo; in the order of the pipelines, so do their runs.
    order = ["tour", "git_ingest", "sequence_build", "qlora_train", "behavioral_eval", "export"]
    done = run_notebooks(finished_project, *order)
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"{len(order)} passed" in done.stdout


@pytest.mark.slow
def test_notebook_with_an_error_fails(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    tour = json.loads((ROOT / "notebooks/tour.ipynb").read_text(encoding="utf-8"))
    tour["cells"] = [cell for cell in tour["cells"] if cell["cell_type"] == "code"][:2]
    assert "kedro.ipython" in "".join(tour["cells"][0]["source"])
    tour["cells"][1]["source"] = ["catalog.load('nothing of this name')"]
    (project / "notebooks").mkdir()
    (project / "notebooks/tour.ipynb").write_text(json.dumps(tour), encoding="utf-8")
    done = run_notebooks(project, "tour")
    assert done.returncode == 1
    assert "nothing of this name" in done.stdout
