"""Many repositories in one run: none stops the others, whatever is wrong with it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import Ingested, ingest

from the_block_llm.errors import ParameterError, RepositoryError
from the_block_llm.pipelines.git_ingest.sources.repository_list import expand_repositories


def good(path: Path, n_commits: int = 3) -> GitRepository:
    repository = GitRepository(path)
    for number in range(n_commits):
        repository.commit(
            f"Add part {number} of {path.name}",
            {f"part{number}.py": f"def {path.name}{number}() -> int:\n    return {number}\n"},
        )
    return repository


@pytest.fixture
def organisation(tmp_path: Path) -> Path:
    """Good repositories, and among them one of every bad kind."""
    folder = tmp_path / "clones"
    good(folder / "alpha")
    good(folder / "team" / "omega", 4)
    GitRepository(folder / "empty")
    broken = good(folder / "broken")
    # The oldest commit object is gone, so the order of the history is unknown.
    broken.remove_object(broken.git("rev-list", "--max-parents=0", "HEAD"))
    hostile = good(folder / "hostile")
    trap = tmp_path / "sprung"
    script = tmp_path / "trap.sh"
    script.write_text(f"#!/bin/sh\ntouch {trap}\n")
    script.chmod(0o755)
    for name in ("core.fsmonitor", "core.pager", "diff.external", "core.sshCommand"):
        hostile.git("config", name, str(script))
    # A linked work tree whose repository is gone, and a folder that is none at all.
    lost = folder / "lost"
    lost.mkdir()
    (lost / ".git").write_text("gitdir: ../nowhere\n")
    (folder / "notes").mkdir()
    return folder


def reasons(got: Ingested) -> dict[str, str]:
    return {Path(one["source"]).name: one["reason"] for one in got.report["left_out"]}


def subjects(got: Ingested) -> dict[str, int]:
    counted: dict[str, int] = {}
    for (repo,) in got.rows("commits", "repo"):
        counted[repo] = counted.get(repo, 0) + 1
    return counted


@pytest.mark.parametrize("n_processes", [1, 2])
def test_bad_repositories_among_good_ones(
    tmp_path: Path, organisation: Path, n_processes: int
) -> None:
    got = ingest(".", tmp_path / "out", repositories=str(organisation), n_processes=n_processes)
    assert subjects(got) == {"alpha": 3, "hostile": 3, "omega": 4}
    assert set(reasons(got)) == {"broken", "empty", "lost"}
    assert "git fsck" in reasons(got)["broken"]
    assert "Commit something first" in reasons(got)["empty"]
    assert not (tmp_path / "sprung").exists()
    assert [w for w in got.report["warnings"] if w.startswith("Left out: ")]
    assert {s.partition(":")[0] for s in got.report["summary"]} == {"alpha", "hostile", "omega"}


def test_what_failed_is_tried_again_and_the_rest_is_at_hand(
    tmp_path: Path, organisation: Path
) -> None:
    ingest(".", tmp_path / "out", repositories=str(organisation))
    shutil.rmtree(organisation / "broken")
    good(organisation / "broken")
    again = ingest(".", tmp_path / "out", repositories=str(organisation))
    read_now = {one["repo"]: one["commits_read_now"] for one in again.report["history"]}
    assert read_now == {"alpha": 0, "broken": 3, "hostile": 0, "omega": 0}
    assert set(reasons(again)) == {"empty", "lost"}


def test_a_repository_that_breaks_while_it_is_read_leaves_no_rows(
    tmp_path: Path, organisation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from the_block_llm.pipelines.git_ingest import tables

    original = tables.extract_history

    def extract_history(view: Any, order: Any, options: Any, *more: Any) -> Any:
        if options.repo == "omega":
            raise ZeroDivisionError("what a repository provoked")
        return original(view, order, options, *more)

    monkeypatch.setattr(tables, "extract_history", extract_history)
    got = ingest(".", tmp_path / "out", repositories=str(organisation))
    assert subjects(got) == {"alpha": 3, "hostile": 3}
    assert {repo for (repo,) in got.rows("snapshot_files", "repo")} == {"alpha", "hostile"}
    assert reasons(got)["omega"] == "ZeroDivisionError: what a repository provoked"


def test_the_tables_do_not_depend_on_how_many_work(tmp_path: Path, organisation: Path) -> None:
    one = ingest(".", tmp_path / "one", repositories=str(organisation), n_processes=1)
    several = ingest(".", tmp_path / "several", repositories=str(organisation), n_processes=3)
    # Authors are named by a key that each of the two made for itself.
    for table in ("file_changes", "snapshot_files"):
        parts = [[p.read_bytes() for p in getattr(got, table).parts] for got in (one, several)]
        assert parts[0] == parts[1]


def test_a_large_repository_is_read_in_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from the_block_llm.pipelines.git_ingest.git import rev_list
    from the_block_llm.pipelines.git_ingest.sharding import shards

    large, small = good(tmp_path / "large", 60), good(tmp_path / "small")
    monkeypatch.setattr(rev_list, "_MEAN_COMMITS_FROM", {0: 4})
    whole = ingest(".", tmp_path / "whole", repositories=[large.path, small.path])
    monkeypatch.setattr(shards, "COMMITS_PER_ASSIGNMENT", 20)
    key = tmp_path / "shared"
    key.mkdir()
    shutil.copy(tmp_path / "whole" / "pseudonym.key", key)
    shared = ingest(".", key, repositories=[large.path, small.path])
    assert shared.all_rows() == whole.all_rows()
    # Everything had been read when the whole was asked for.
    assert [one["commits_read_now"] for one in shared.report["history"]] == [0, 3]


def test_when_none_can_be_read_the_reasons_are_told(tmp_path: Path) -> None:
    GitRepository(tmp_path / "clones" / "one")
    GitRepository(tmp_path / "clones" / "two")
    with pytest.raises(RepositoryError, match="None of the 2 repositories.*Commit something"):
        ingest(".", tmp_path / "out", repositories=str(tmp_path / "clones"))


def test_a_repository_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    path = good(tmp_path / "one").path
    got = ingest(".", tmp_path / "out", repositories=[path, path / ".git"])
    assert subjects(got) == {"one": 3}
    assert "same repository" in got.report["left_out"][0]["reason"]


def test_a_file_lists_repositories(tmp_path: Path) -> None:
    lines = "# the team's\nclones/one\n\nhttps://example.org/two.git # by URL\n/srv/three\n"
    (tmp_path / "list.txt").write_text(lines)
    assert expand_repositories(str(tmp_path / "list.txt")) == [
        str(tmp_path / "clones/one"),
        "https://example.org/two.git",
        "/srv/three",
    ]


def test_a_folder_of_clones_is_searched(tmp_path: Path, organisation: Path) -> None:
    bare = GitRepository(organisation / "host" / "team" / "bare.git", bare=True)
    bundled = good(tmp_path / "elsewhere")
    bundled.git("bundle", "create", str(organisation / "whole.bundle"), "--all")
    (organisation / "loop").symlink_to(organisation)
    names = [
        str(Path(one).relative_to(organisation)) for one in expand_repositories(str(organisation))
    ]
    assert names == [
        "alpha", "broken", "empty", "host/team/bare.git", "hostile", "lost", "team/omega",
        "whole.bundle",
    ]  # fmt: skip
    assert expand_repositories(str(bare.path)) == [str(bare.path)]


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no file or folder"), ("", "names no repository"), ("# nothing\n", "names no")],
)
def test_a_list_that_names_nothing(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "list").write_text(content)
    with pytest.raises(ParameterError, match=says):
        expand_repositories(str(tmp_path / "list"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ParameterError, match="holds no git repository"):
        expand_repositories(str(tmp_path / "nothing"))
