"""Resolves repositories, commits and the cut-off; invalid parameters are errors."""

from pathlib import Path
from typing import Any

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import build_repository, ingest

from the_block_llm.errors import BlockError, ParameterError, RepositoryError


def test_several_repositories_are_read_into_the_same_tables(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        repository = GitRepository(tmp_path / name)
        repository.commit(f"Begin {name}", {"a.py": f"x = '{name}'\n"})
        paths.append(repository.path)
    result = ingest(".", tmp_path / "out", repositories=paths)
    assert result.rows("commits", "repo", "subject") == [("one", "Begin one"), ("two", "Begin two")]
    assert result.rows("snapshot_files", "repo", "text") == [
        ("one", "x = 'one'\n"),
        ("two", "x = 'two'\n"),
    ]


def test_the_error_lists_the_reasons_if_no_repository_can_be_read(tmp_path: Path) -> None:
    GitRepository(tmp_path / "clones" / "one")
    GitRepository(tmp_path / "clones" / "two")
    with pytest.raises(RepositoryError, match="None of the 2 repositories.*Commit something"):
        ingest(".", tmp_path / "out", repositories=str(tmp_path / "clones"))


def test_a_repository_that_is_listed_twice_is_read_once(tmp_path: Path) -> None:
    path = build_repository(tmp_path / "one").path
    result = ingest(".", tmp_path / "out", repositories=[path, path / ".git"])
    assert result.n_commits_by_repository() == {"one": 3}
    assert "same repository" in result.report["left_out"][0]["reason"]


def test_an_empty_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="Commit something first"):
        ingest(GitRepository(tmp_path / "project").path, tmp_path / "out")


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"ref": "nosuch"}, RepositoryError, "names no commit .* main"),
        ({"ref": "--upload-pack=x"}, RepositoryError, "starts with '-'"),
        ({"since": "2040-01-01"}, RepositoryError, "No commit is left"),
        ({"cutoff": 1.5}, ParameterError, "between 0 and 1"),
        ({"cutoff": "soon"}, ParameterError, "neither a fraction nor an ISO date"),
        ({"cutoff": "1999-01-01"}, ParameterError, "before the first commit"),
        ({"cutoff": "0001-01-01"}, ParameterError, "before the first commit"),
        ({"since": "9999-12-31"}, RepositoryError, "No commit is left"),
    ],
)
def test_invalid_parameters_are_errors(
    tmp_path: Path, overrides: dict[str, Any], error: type[BlockError], message: str
) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a": "1\n"})
    with pytest.raises(error, match=message):
        ingest(repository.path, tmp_path / "out", **overrides)


@pytest.mark.parametrize("cutoff", ["9999-12-31", "9999-12-31T23:59:59-14:00", "2099-12-31", None])
def test_a_cutoff_after_every_commit_trains_on_all(tmp_path: Path, cutoff: str | None) -> None:
    repository = build_repository(tmp_path / "project")
    result = ingest(repository.path, tmp_path / "out", cutoff=cutoff, since="0001-01-01")
    assert result.repository["cutoff"]["sha"] == result.repository["head"]
