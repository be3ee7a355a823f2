"""Wrong input ends in one clear sentence before any long work."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.builders.git_repository import GitRepository
from tests.builders.toy_ledger import build_toy_ledger
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.errors import BlockError, ParameterError, RepositoryError
from the_block_llm.pipelines.git_ingest.git.repository import locate


def test_folders_that_are_no_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="does not exist"):
        ingest(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "plain").mkdir()
    with pytest.raises(RepositoryError, match="not a git repository"):
        ingest(tmp_path / "plain", tmp_path / "out")
    (tmp_path / "file").write_text("text")
    with pytest.raises(RepositoryError, match="not a git bundle"):
        ingest(tmp_path / "file", tmp_path / "out")


def test_a_folder_inside_a_repository_names_the_repository(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a": "1\n"})
    (repository.path / "inner").mkdir()
    with pytest.raises(RepositoryError, match=f"inside the repository {repository.path}"):
        ingest(repository.path / "inner", tmp_path / "out")


def test_an_empty_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="Commit something first"):
        ingest(GitRepository(tmp_path / "project").path, tmp_path / "out")


@pytest.mark.parametrize(
    ("choices", "error", "says"),
    [
        ({"ref": "nosuch"}, RepositoryError, "names no commit .* main"),
        ({"ref": "--upload-pack=x"}, RepositoryError, "begins with '-'"),
        ({"since": "2040-01-01"}, RepositoryError, "No commit is left"),
        ({"cutoff": 1.5}, ParameterError, "between 0 and 1"),
        ({"cutoff": "soon"}, ParameterError, "neither a fraction nor an ISO date"),
        ({"cutoff": "1999-01-01"}, ParameterError, "before the first commit"),
    ],
)
def test_choices_that_cannot_be_met(
    tmp_path: Path, choices: dict[str, Any], error: type[BlockError], says: str
) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a": "1\n"})
    with pytest.raises(error, match=says):
        ingest(repository.path, tmp_path / "out", **choices)


@pytest.mark.parametrize("url", ["ext::sh -c touch% x", "--upload-pack=touch x", ""])
def test_names_that_git_could_execute(tmp_path: Path, url: str) -> None:
    with pytest.raises(RepositoryError):
        ingest(url, tmp_path / "out")


def test_a_url_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="Cannot clone"):
        ingest("file:///nowhere/at/all.git", tmp_path / "out")


def test_a_url_is_cloned_once_and_then_fetched(tmp_path: Path) -> None:
    origin = build_toy_ledger(tmp_path / "origin")
    first = locate(f"file://{origin}", tmp_path / "clones")
    assert (first.git_dir / "HEAD").is_file()
    assert not list(first.git_dir.glob("hooks/*"))
    subprocess.run(["git", "branch", "later"], cwd=origin, check=True)
    assert locate(f"file://{origin}", tmp_path / "clones") == first
    listed = subprocess.run(
        ["git", "for-each-ref"], cwd=first.git_dir, check=True, capture_output=True, text=True
    )
    assert "refs/heads/later" in listed.stdout


def test_a_bundle_is_read_like_a_url(tmp_path: Path) -> None:
    origin = build_toy_ledger(tmp_path / "origin")
    subprocess.run(
        ["git", "bundle", "create", "--quiet", str(tmp_path / "whole.bundle"), "--all"],
        cwd=origin,
        check=True,
    )
    source = locate(str(tmp_path / "whole.bundle"), tmp_path / "clones")
    assert source.name == "whole"
    assert (source.git_dir / "HEAD").is_file()


def test_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from the_block_llm.pipelines.git_ingest.git import program

    monkeypatch.setenv("PATH", str(tmp_path))
    program.require_git.cache_clear()
    with pytest.raises(RepositoryError, match="Install git"):
        ingest(tmp_path, tmp_path / "out")
    program.require_git.cache_clear()
