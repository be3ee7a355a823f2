"""git itself must be installed, run, and be new enough."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git import program


@pytest.fixture
def only_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    program.require_git.cache_clear()
    yield folder
    program.require_git.cache_clear()


def _install(folder: Path, script: str) -> None:
    git = folder / "git"
    git.write_text(f"#!/bin/sh\n{script}\n")
    git.chmod(0o755)


def test_missing_git_is_an_error(only_on_path: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="not installed or not on PATH.*Install git 2.31"):
        ingest(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo git version 2.29.9", "git 2.29.9 is too old"),
        ("echo git version 1.8.3.1", "git 1.8.3.1 is too old"),
        ("echo xcrun: error: no developer tools >&2; exit 1", "but: xcrun: error: no developer"),
        ("echo hello", "printed no version, but: hello"),
        ("exit 0", "printed no version, but: nothing"),
    ],
)
def test_a_git_that_does_not_do_is_an_error(
    only_on_path: Path, tmp_path: Path, script: str, message: str
) -> None:
    _install(only_on_path, script)
    with pytest.raises(RepositoryError, match=f"{message}.*Install git 2.31 or newer"):
        ingest(tmp_path, tmp_path / "out")


def test_a_git_that_cannot_be_executed_is_an_error(only_on_path: Path) -> None:
    (only_on_path / "git").write_bytes(b"\x7fELF not a program")
    (only_on_path / "git").chmod(0o755)
    with pytest.raises(RepositoryError, match="git cannot be run: .*Install git 2.31"):
        program.require_git()


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("git version 2.39.5", "2.39.5"),
        ("git version 2.39.5 (Apple Git-154)", "2.39.5"),
        ("git version 2.45.1.windows.1", "2.45.1.windows.1"),
        ("git version 2.50.GIT", "2.50.GIT"),
        ("git version 3.0.0-rc1", "3.0.0-rc1"),
        ("warning: x\ngit version 2.31.0", "2.31.0"),
    ],
)
def test_versions_of_every_distribution_are_understood(
    only_on_path: Path, printed: str, version: str
) -> None:
    _install(only_on_path, f'echo "{printed}"')
    assert program.require_git() == version
