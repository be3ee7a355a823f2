"""Each notebook runs from top to bottom, on a small project with a tiny model."""

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
        node_types = {type(node) for node in ast.walk(ast.parse(python))}
        assert not node_types & {ast.FunctionDef, ast.ClassDef, ast.While, ast.For, ast.Lambda}


def run_notebooks(project: Path, *names: str) -> subprocess.CompletedProcess[str]:
    folder = project / "notebooks"
    # nbmake does not detect errors in tracebacks that Rich prints as ordinary output.
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
    # Each notebook leaves the tables valid for the next if they run in the order of the pipelines.
    order = ["tour", "git_ingest", "sequence_build", "qlora_train", "behavioral_eval", "export"]
    completed = run_notebooks(finished_project, *order)
    assert completed.returncode == 0, completed.stdout[-4000:]
    assert f"{len(order)} passed" in completed.stdout


@pytest.mark.slow
def test_notebook_with_an_error_fails(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    tour = json.loads((ROOT / "notebooks/tour.ipynb").read_text(encoding="utf-8"))
    tour["cells"] = [cell for cell in tour["cells"] if cell["cell_type"] == "code"][:2]
    assert "kedro.ipython" in "".join(tour["cells"][0]["source"])
    tour["cells"][1]["source"] = ["catalog.load('no such dataset')"]
    (project / "notebooks").mkdir()
    (project / "notebooks/tour.ipynb").write_text(json.dumps(tour), encoding="utf-8")
    completed = run_notebooks(project, "tour")
    assert completed.returncode == 1
    assert "no such dataset" in completed.stdout
