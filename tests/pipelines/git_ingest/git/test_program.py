"""git itself must be installed."""

from pathlib import Path

import pytest
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.errors import RepositoryError


def test_missing_git_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from the_block_llm.pipelines.git_ingest.git import program

    monkeypatch.setenv("PATH", str(tmp_path))
    program.require_git.cache_clear()
    with pytest.raises(RepositoryError, match="Install git"):
        ingest(tmp_path, tmp_path / "out")
    program.require_git.cache_clear()
