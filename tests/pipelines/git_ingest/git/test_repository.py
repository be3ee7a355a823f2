"""Repositories are located by path, bundle or URL; anything else is an error."""

from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.errors import RepositoryError


@pytest.mark.parametrize("kind", ["bare", "bundle", "url", "sha256"])
def test_bare_repositories_bundles_urls_and_sha256_are_read(tmp_path: Path, kind: str) -> None:
    object_format = "sha256" if kind == "sha256" else "sha1"
    repository = GitRepository(
        tmp_path / "project", bare=kind == "bare", object_format=object_format
    )
    sha = repository.commit("One", {"a.py": "x = 1\n"})
    source: Path | str = repository.path
    if kind == "bundle":
        source = tmp_path / "project.bundle"
        repository.git("bundle", "create", str(source), "HEAD", "main")
    elif kind == "url":
        source = f"file://{repository.path}"
    result = ingest(source, tmp_path / "out")
    assert result.rows("commits", "sha", "repo") == [(sha, "project")]
    assert result.rows("snapshot_files", "text") == [("x = 1\n",)]


def test_a_path_that_is_not_a_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="does not exist"):
        ingest(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "plain").mkdir()
    with pytest.raises(RepositoryError, match="not a git repository"):
        ingest(tmp_path / "plain", tmp_path / "out")
    (tmp_path / "file").write_text("text")
    with pytest.raises(RepositoryError, match="not a git bundle"):
        ingest(tmp_path / "file", tmp_path / "out")


def test_a_folder_inside_a_repository_is_an_error_that_names_the_repository(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a": "1\n"})
    (repository.path / "inner").mkdir()
    with pytest.raises(RepositoryError, match=f"inside the repository {repository.path}"):
        ingest(repository.path / "inner", tmp_path / "out")


@pytest.mark.parametrize("url", ["ext::sh -c touch% x", "--upload-pack=touch x", ""])
def test_sources_that_git_could_execute_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(RepositoryError):
        ingest(url, tmp_path / "out")
