"""What happens around a run, wherever it is started."""

import os
import subprocess
import sys
from pathlib import Path

from tests.builders.project import copy_project

# As a notebook in the project's folder notebooks/ runs a node, and then one that fails.
FROM_A_NOTEBOOK = """
import os, sys
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from the_block_llm.errors import RepositoryError

bootstrap_project("..")

def find(repository):
    params = {"repository": repository}
    with KedroSession.create("..", env="base", runtime_params=params) as session:
        session.run(node_names=["find_repositories"])

find(sys.argv[1])
print("now in", os.path.basename(os.getcwd()))
try:
    find("nowhere")
except RepositoryError as error:
    print(error)
print("still in", os.path.basename(os.getcwd()))
"""


def test_notebook_session_resolves_paths_and_restores_the_working_directory(
    tmp_path: Path, small_repository: Path
) -> None:
    project = copy_project(tmp_path / "project")
    notebooks = project / "notebooks"
    notebooks.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FROM_A_NOTEBOOK, os.path.relpath(small_repository, project)],
        cwd=notebooks, text=True, check=False, timeout=300, env={**os.environ, "COLUMNS": "160"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert (project / "data/01_raw/repository.json").is_file()
    assert "now in notebooks" in done.stdout
    assert f"There is no repository at {project / 'nowhere'}" in done.stdout
    assert "still in notebooks" in done.stdout
    # What Kedro says of each dataset it loads; conf/logging.yml keeps that off the screen.
    assert "Loading data" not in done.stdout
