"""Commits are split correctly whatever their messages hold."""

from pathlib import Path

from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest


def test_a_message_that_ends_with_the_next_sha_is_not_a_boundary(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    late = repository.commit("Late", {"b.py": "y = 1\n"}, at=1_800_000_000)
    early = repository.commit(f"Early\n\n{late}", {"a.py": "x = 1\n"}, at=1_700_000_000, parents=[])
    repository.commit("Both", parents=[late, early], at=1_900_000_000)
    result = ingest(repository.path, tmp_path / "out")
    assert result.rows("commits", "subject", "body", "files_changed") == [
        ("Early", late, 1),
        ("Late", "", 1),
        ("Both", "", 0),
    ]
