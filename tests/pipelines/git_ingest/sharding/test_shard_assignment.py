"""Large repositories are read by several jobs."""

import shutil
from pathlib import Path

import pytest
from tests.pipelines.git_ingest.ingesting import build_repository, ingest


def test_a_large_repository_is_read_by_several_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from the_block_llm.pipelines.git_ingest.sharding import commit_order, shard_assignment

    large, small = build_repository(tmp_path / "large", 60), build_repository(tmp_path / "small")
    monkeypatch.setattr(commit_order, "_MEAN_SHARD_COMMITS", {0: 4})
    whole = ingest(".", tmp_path / "whole", repositories=[large.path, small.path])
    monkeypatch.setattr(shard_assignment, "COMMITS_PER_ASSIGNMENT", 20)
    folder = tmp_path / "divided"
    folder.mkdir()
    shutil.copy(tmp_path / "whole" / "pseudonym.key", folder)
    divided = ingest(".", folder, repositories=[large.path, small.path])
    assert divided.all_rows() == whole.all_rows()
    # The full job of the large repository found all shards in the cache.
    assert [entry["commits_read_now"] for entry in divided.report["history"]] == [0, 3]
