"""Commits and changes, including every unusual case that git allows."""

from pathlib import Path

import pytest
from tests.builders.git_repository import Executable, GitRepository, Submodule, Symlink
from tests.pipelines.git_ingest.ingesting import ingest


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "project")


def test_an_addition_a_change_and_a_deletion_are_rows_with_their_hunks(
    repository: GitRepository, tmp_path: Path
) -> None:
    repository.commit("Add parser", {"src/a.py": "one\ntwo\n"})
    repository.commit("Change parser", {"src/a.py": "one\nthree\n"})
    repository.commit("Drop parser", {"src/a.py": None})

    result = ingest(repository.path, tmp_path / "out")

    columns = ("path", "status", "additions", "deletions", "patch", "language", "kept")
    assert result.rows("file_changes", *columns) == [
        ("src/a.py", "A", 2, 0, "@@ -0,0 +1,2 @@\n+one\n+two\n", "Python", True),
        ("src/a.py", "M", 1, 1, "@@ -1,2 +1,2 @@\n one\n-two\n+three\n", "Python", True),
        ("src/a.py", "D", 0, 2, "@@ -1,2 +0,0 @@\n-one\n-three\n", "Python", True),
    ]
    assert result.rows("commits", "subject", "files_changed", "insertions", "deletions") == [
        ("Add parser", 1, 2, 0),
        ("Change parser", 1, 1, 1),
        ("Drop parser", 1, 0, 2),
    ]


def test_renames_and_copies_carry_both_paths_and_the_similarity(
    repository: GitRepository, tmp_path: Path
) -> None:
    text = "".join(f"line {i}\n" for i in range(20))
    repository.commit("Add", {"a.txt": text, "b.txt": text.upper()})
    repository.commit("Move", renames={"a.txt": "moved.txt"})
    repository.commit("Copy", {"b.txt": text.upper() + "MORE\n", "c.txt": text.upper()})

    result = ingest(repository.path, tmp_path / "out")

    columns = ("path", "old_path", "status", "similarity", "kept", "drop_reason")
    assert result.rows("file_changes", *columns)[2:] == [
        ("moved.txt", "a.txt", "R", 100, False, "empty"),
        ("b.txt", None, "M", None, True, None),
        ("c.txt", "b.txt", "C", 100, False, "empty"),
    ]


def test_type_and_mode_changes_symlinks_and_submodules_are_rows(
    repository: GitRepository, tmp_path: Path
) -> None:
    repository.commit("One", {"run": "text\n", "link": "file\n", "plain": "p\n"})
    repository.commit(
        "Two", {"run": Executable(b"text\n"), "link": Symlink("/etc/passwd"), "plain": "q\n"}
    )
    repository.commit("Three", {"sub": Submodule("1" * 40)})

    result = ingest(repository.path, tmp_path / "out")

    columns = ("path", "status", "patch", "drop_reason")
    assert result.rows("file_changes", *columns)[3:] == [
        ("link", "T", None, "symlink"),
        ("plain", "M", "@@ -1 +1 @@\n-p\n+q\n", None),
        ("run", "M", None, "empty"),
        ("sub", "A", None, "submodule"),
    ]


def test_merges_are_rows_without_a_patch_and_several_roots_are_read(
    repository: GitRepository, tmp_path: Path
) -> None:
    first = repository.commit("Root one", {"a": "1\n"})
    second = repository.commit("Root two", {"b": "2\n"}, branch="other", parents=[])
    third = repository.commit("Root three", {"c": "3\n"}, branch="third", parents=[])
    merge = repository.commit("Octopus", parents=[first, second, third])

    result = ingest(repository.path, tmp_path / "out")

    assert result.rows("commits", "sha", "parents", "is_merge", "kind", "files_changed") == [
        (first, [], False, "other", 1),
        (second, [], False, "other", 1),
        (third, [], False, "other", 1),
        (merge, [first, second, third], True, "merge", 0),
    ]
    assert {sha for (sha,) in result.rows("file_changes", "sha")} == {first, second, third}


def test_paths_may_contain_any_byte(repository: GitRepository, tmp_path: Path) -> None:
    paths = ["new\nline", 'quo"te', "tab\there", "back\\slash", "spaces in it", "naïve", "a\x01b"]
    repository.commit("Odd", {path: f"{i}\n" for i, path in enumerate(paths)})
    repository.commit("Bytes", {b"lat\xedn": "x\n"})

    result = ingest(repository.path, tmp_path / "out")

    found = dict(result.rows("file_changes", "path", "patch"))
    assert set(found) == {*paths, "lat\\xedn"}
    assert found["new\nline"] == "@@ -0,0 +1 @@\n+0\n"
    assert {path for (path,) in result.rows("snapshot_files", "path")} == set(found)


def test_text_that_looks_like_a_boundary_is_content(
    repository: GitRepository, tmp_path: Path
) -> None:
    first = repository.commit("One", {"a": "x\n"})
    tricky = f"diff --git a/a b/a\n{first}\0\n@@ -1 +1 @@\nend-of-batch\n".replace("\0", "")
    repository.commit(f"Two\n\ndiff --git a/b b/b\n{first}\n:100644", {"a": tricky})
    repository.commit("Three", {"a": tricky.replace("\n", "\r\n")})

    result = ingest(repository.path, tmp_path / "out")

    texts = [patch for (patch,) in result.rows("file_changes", "patch")]
    assert texts[1].count("\n+") == 4
    assert texts[2].count("\r\n") == 4
    assert result.rows("commits", "body")[1] == (f"diff --git a/b b/b\n{first}\n:100644",)


def test_author_time_zone_and_mailmap(repository: GitRepository, tmp_path: Path) -> None:
    repository.commit(
        "One",
        {".mailmap": "Right Name <right@example.org> <wrong@example.org>\n"},
        author=("Wrong", "wrong@example.org"),
        at=1_600_000_000,
        offset="-0730",
    )
    result = ingest(repository.path, tmp_path / "out", pseudonymise=False)
    row = next(result.commits.rows())
    assert row["author_id"] == "Right Name <right@example.org>"
    assert row["tz_offset_min"] == -450
    assert row["authored_at"].timestamp() == 1_600_000_000


def test_reverts_are_detected_by_sha_subject_or_inverse_patch(
    repository: GitRepository, tmp_path: Path
) -> None:
    repository.commit("Begin", {"a": "1\n", "b": "1\n"})
    by_sha = repository.commit("Count twice", {"a": "2\n"})
    repository.commit(f"Back\n\nThis reverts commit {by_sha[:12]}.", {"a": "3\n"})
    by_subject = repository.commit("Drop the cache", {"a": "4\n"})
    repository.commit('Revert "Drop the cache"', {"a": "5\n"})
    by_patch = repository.commit("Try another way", {"a": "6\n", "b": "6\n"})
    repository.commit("It was better before", {"a": "5\n", "b": "1\n"})
    repository.commit("This reverts commit 0000000 which nobody has", {"b": "7\n"})
    result = ingest(repository.path, tmp_path / "out")
    reverts = [sha for (sha,) in result.rows("commits", "reverts")]
    assert reverts == [None, None, by_sha, None, by_subject, None, by_patch, None]
    assert result.report["history"][0]["reverts"] == 3


def test_all_branches_and_since(repository: GitRepository, tmp_path: Path) -> None:
    repository.commit("Old", {"a": "1\n"}, at=1_600_000_000)
    tip = repository.commit("New", {"a": "2\n"}, at=1_700_000_000)
    repository.commit("Aside", {"b": "1\n"}, branch="side", parents=[tip])
    subjects = {
        name: [
            s for (s,) in ingest(repository.path, tmp_path / name, **c).rows("commits", "subject")
        ]
        for name, c in (
            ("head", {}),
            ("all", {"all_branches": True}),
            ("since", {"since": "2021-01-01", "all_branches": True}),
            ("ref", {"ref": "side"}),
        )
    }
    assert subjects == {
        "head": ["Old", "New"],
        "all": ["Old", "New", "Aside"],
        "since": ["New", "Aside"],
        "ref": ["Old", "New", "Aside"],
    }


def test_uninformative_and_recurring_subjects_are_detected(
    repository: GitRepository, tmp_path: Path
) -> None:
    uninformative = ["codex cli local changes", "wip", "fix", "update", ".", "Merge branch 'main'"]
    descriptive = ["Reject votes from a stale epoch", "Explain how leaders are chosen"]
    recurring = [f"Nightly ledger export {i}" for i in range(4)]
    for i, subject in enumerate([*uninformative, *descriptive, *recurring]):
        repository.commit(subject, {"a": f"{i}\n"})
    result = ingest(repository.path, tmp_path / "out")
    informative = {
        s
        for s, is_informative in result.rows("commits", "subject", "informative")
        if is_informative
    }
    assert informative == set(descriptive)
    assert result.report["history"][0]["informative_share"] == 2 / 12
    assert any("uninformative" in warning for warning in result.report["warnings"])
    assert any("Only 12 commits" in warning for warning in result.report["warnings"])
    assert any("bytes of files are kept" in warning for warning in result.report["warnings"])
