"""Temporary directories of dead processes are removed, and no others."""

import subprocess
from pathlib import Path

from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.pipelines.git_ingest.git.temp_dirs import temp_dir_name


def test_the_next_run_removes_temp_dirs_of_dead_processes(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    dead = subprocess.Popen(["true"])
    dead.wait()
    own_pid = temp_dir_name("sandbox").rpartition("-")[2]
    folders = {
        name: tmp_path
        / "out"
        / parent
        / name.replace(own_pid, str(dead.pid) if is_dead else own_pid)
        for parent, name, is_dead in (
            ("cache", temp_dir_name("sandbox") + "-abc", True),
            ("clones", temp_dir_name("project.git"), True),
            ("cache", temp_dir_name("other sandbox") + "-def", False),
        )
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "file").write_text("text")
    ingest(f"file://{repository.path}", tmp_path / "out")
    assert [folder.exists() for folder in folders.values()] == [False, False, True]
