"""The hooks in a session that is started in another folder."""

import os
import subprocess
import sys
from pathlib import Path

from tests.builders.project import copy_project

# Runs a node as a notebook in notebooks/ does, then one that fails.
FROM_A_NOTEBOOK = """
import os, sys
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from the_block_llm.errors import RepositoryError

bootstrap_project("..")

def find_repositories(repository):
    params = {"repository": repository}
    with KedroSession.create("..", env="base", runtime_params=params) as session:
        session.run(node_names=["find_repositories"])

find_repositories(sys.argv[1])
print("now in", os.path.basename(os.getcwd()))
try:
    find_repositories("nowhere")
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
    completed = subprocess.run(
        [sys.executable, "-c", FROM_A_NOTEBOOK, os.path.relpath(small_repository, project)],
        cwd=notebooks, text=True, check=False, timeout=300, env={**os.environ, "COLUMNS": "160"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stdout[-3000:]
    assert (project / "data/01_raw/repository.json").is_file()
    assert "now in notebooks" in completed.stdout
    assert f"There is no repository at {project / 'nowhere'}" in completed.stdout
    assert "still in notebooks" in completed.stdout
    # Kedro logs every dataset that it loads; conf/logging.yml turns that off.
    assert "Loading data" not in completed.stdout
