"""A repository that cannot be read does not stop the others."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.pipelines.git_ingest.ingesting import build_repository, ingest


@pytest.mark.parametrize("n_processes", [1, 2])
def test_unreadable_repositories_are_skipped(
    tmp_path: Path, organization: Path, n_processes: int
) -> None:
    result = ingest(".", tmp_path / "out", repositories=str(organization), n_processes=n_processes)
    assert result.n_commits_by_repository() == {"alpha": 3, "hostile": 3, "omega": 4}
    assert set(result.skip_reasons()) == {"broken", "empty", "lost"}
    assert "git fsck" in result.skip_reasons()["broken"]
    assert "Commit something first" in result.skip_reasons()["empty"]
    assert not (tmp_path / "canary").exists()
    assert [w for w in result.report["warnings"] if w.startswith("Skipped: ")]
    assert {s.partition(":")[0] for s in result.report["summary"]} == {"alpha", "hostile", "omega"}


def test_failed_repositories_are_retried_and_others_come_from_the_cache(
    tmp_path: Path, organization: Path
) -> None:
    ingest(".", tmp_path / "out", repositories=str(organization))
    shutil.rmtree(organization / "broken")
    build_repository(organization / "broken")
    again = ingest(".", tmp_path / "out", repositories=str(organization))
    n_read = {entry["repo"]: entry["commits_read_now"] for entry in again.report["history"]}
    assert n_read == {"alpha": 0, "broken": 3, "hostile": 0, "omega": 0}
    assert set(again.skip_reasons()) == {"empty", "lost"}


def test_a_repository_that_fails_while_it_is_read_has_no_rows(
    tmp_path: Path, organization: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from the_block_llm.pipelines.git_ingest import tables

    original = tables.extract_history

    def extract_history(view: Any, order: Any, options: Any, *rest: Any) -> Any:
        if options.repo == "omega":
            raise ZeroDivisionError("caused by the repository")
        return original(view, order, options, *rest)

    monkeypatch.setattr(tables, "extract_history", extract_history)
    result = ingest(".", tmp_path / "out", repositories=str(organization))
    assert result.n_commits_by_repository() == {"alpha": 3, "hostile": 3}
    assert {repo for (repo,) in result.rows("snapshot_files", "repo")} == {"alpha", "hostile"}
    assert result.skip_reasons()["omega"] == "ZeroDivisionError: caused by the repository"


def test_the_tables_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, organization: Path
) -> None:
    one = ingest(".", tmp_path / "one", repositories=str(organization), n_processes=1)
    several = ingest(".", tmp_path / "several", repositories=str(organization), n_processes=3)
    # Not commits: each run creates its own pseudonym key.
    for table in ("file_changes", "snapshot_files"):
        parts = [
            [p.read_bytes() for p in getattr(result, table).parts] for result in (one, several)
        ]
        assert parts[0] == parts[1]
