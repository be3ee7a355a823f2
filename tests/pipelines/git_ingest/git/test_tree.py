"""Very large trees and very long paths are read."""

from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest


def test_a_tree_of_very_many_files_gives_one_row_per_file(tmp_path: Path) -> None:
    # A hundredth of the size that was tried by hand, see docs/experiments.md.
    repository = GitRepository(tmp_path / "project")
    blobs = [repository.write_object("blob", b"line %d\n" % i) for i in range(10)]
    leaf = repository.write_tree({f"f{i:03}.txt": ("100644", blobs[i % 10]) for i in range(100)})
    tree = repository.write_tree({f"d{i:03}": ("40000", leaf) for i in range(100)})
    commit = repository.git("commit-tree", "-m", "Add very many", tree)
    repository.git("update-ref", "refs/heads/main", commit)
    result = ingest(repository.path, tmp_path / "out")
    assert result.report["history"][0]["kept_rows"] == 10_000
    assert result.report["snapshots"][0]["kept_rows"] == 10
    assert result.report["snapshots"][0]["dropped"]["duplicate"]["rows"] == 9_990
    assert len(set(result.rows("snapshot_files", "path"))) == 10_000


@pytest.mark.parametrize("path", ["x" * 4000, "/".join(["deep" * 10] * 98)])
def test_a_path_of_4000_characters_is_read(tmp_path: Path, path: str) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {path: "x = 1\n"})
    result = ingest(repository.path, tmp_path / "out")
    assert len(path) >= 4000
    assert result.rows("snapshot_files", "path", "text") == [(path, "x = 1\n")]
    assert result.rows("file_changes", "path") == [(path,)]
