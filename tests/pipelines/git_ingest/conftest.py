"""Fixtures for tests of several repositories."""

from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import build_repository


@pytest.fixture
def organization(tmp_path: Path) -> Path:
    """A folder of readable repositories and one of every unreadable kind."""
    folder = tmp_path / "clones"
    build_repository(folder / "alpha")
    build_repository(folder / "team" / "omega", 4)
    GitRepository(folder / "empty")
    broken = build_repository(folder / "broken")
    # The oldest commit object is missing, so the history cannot be ordered.
    broken.remove_object(broken.git("rev-list", "--max-parents=0", "HEAD"))
    hostile = build_repository(folder / "hostile")
    canary = tmp_path / "canary"
    script = tmp_path / "trap.sh"
    script.write_text(f"#!/bin/sh\ntouch {canary}\n")
    script.chmod(0o755)
    for name in ("core.fsmonitor", "core.pager", "diff.external", "core.sshCommand"):
        hostile.git("config", name, str(script))
    # A linked work tree whose repository does not exist, and a folder without a repository.
    lost = folder / "lost"
    lost.mkdir()
    (lost / ".git").write_text("gitdir: ../nowhere\n")
    (folder / "notes").mkdir()
    return folder
