"""What a killed run leaves behind goes with the next one, and nothing else."""

import subprocess
from pathlib import Path

from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.pipelines.git_ingest.git.temp_dirs import temp_dir_name


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine = temp_dir_name("view").rpartition("-")[2]
    folders = {
        name: tmp_path / "out" / where / name.replace(mine, str(ended.pid) if is_gone else mine)
        for where, name, is_gone in (
            ("cache", temp_dir_name("view") + "-abc", True),
            ("clones", temp_dir_name("project.git"), True),
            ("cache", temp_dir_name("other view") + "-def", False),
        )
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "file").write_text("left")
    ingest(f"file://{repository.path}", tmp_path / "out")
    assert [folder.exists() for folder in folders.values()] == [False, False, True]
