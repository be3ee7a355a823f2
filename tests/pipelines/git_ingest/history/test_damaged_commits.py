"""Missing or damaged objects drop only the changes that need them."""

from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.pipelines.git_ingest.history import damaged_commits


def test_renames_are_detected_before_and_in_a_damaged_commit(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    text = "".join(f"line {i}\n" for i in range(30))
    files = {"a.txt": text, "b.txt": text.upper(), "lost.txt": "old\n", "z.txt": "z\n"}
    repository.commit("One", files)
    repository.commit("Two", {"a.txt": None, "moved.txt": text + "more\n"})
    lost = {"lost.txt": "new\n", "z.txt": "y\n"}
    repository.commit("Three", lost | {"b.txt": None, "c.txt": text.upper() + "MORE\n"})
    repository.commit("Four", {"z.txt": "x\n"})
    repository.remove_object(repository.git("rev-parse", "HEAD:lost.txt"))
    result = ingest(repository.path, tmp_path / "out")
    assert result.rows("file_changes", "path", "old_path", "status", "drop_reason")[4:] == [
        ("moved.txt", "a.txt", "R", None),
        ("c.txt", "b.txt", "R", None),
        ("lost.txt", None, "M", "missing_object"),
        ("z.txt", None, "M", None),
        ("z.txt", None, "M", None),
    ]


@pytest.mark.parametrize(("most", "copy"), [(4, ("C", "a.txt")), (3, ("A", None))])
def test_copies_are_not_detected_in_a_large_damaged_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, copy: tuple[str, str | None]
) -> None:
    monkeypatch.setattr(damaged_commits, "_MAX_CHANGES_WITH_COPIES", most)
    repository = GitRepository(tmp_path / "project")
    text = "".join(f"line {i}\n" for i in range(30))
    repository.commit("One", {"a.txt": text, "b.txt": text.upper(), "lost.txt": "old\n"})
    changed = {"a.txt": text + "more\n", "copy.txt": text, "lost.txt": "new\n"}
    repository.commit("Two", changed, renames={"b.txt": "moved.txt"})
    repository.remove_object(repository.git("rev-parse", "HEAD:lost.txt"))
    result = ingest(repository.path, tmp_path / "out")
    assert result.rows("file_changes", "path", "status", "old_path")[3:] == [
        ("a.txt", "M", None),
        ("copy.txt", *copy),
        ("lost.txt", "M", None),
        ("moved.txt", "R", "b.txt"),
    ]


def test_a_commit_before_one_with_missing_trees_is_complete(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    text = "".join(f"line {i}\n" for i in range(30))
    repository.commit("One", {"a.txt": text, "src/b.py": "x = 1\n"})
    repository.commit("Two", renames={"a.txt": "b.txt"})
    repository.commit("Three", {"src/b.py": "x = 2\n"})
    lost = repository.git("rev-parse", "HEAD:src")
    repository.commit("Four", {"b.txt": text + "more\n"})
    repository.remove_object(lost)
    result = ingest(repository.path, tmp_path / "out")
    assert result.rows("file_changes", "path", "old_path", "status")[2:3] == [
        ("b.txt", "a.txt", "R")
    ]
    assert result.rows("commits", "subject") == [("One",), ("Two",), ("Three",), ("Four",)]


def test_a_missing_blob_drops_only_its_own_changes(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n", "b.py": "y = 1\n"})
    repository.commit("Two", {"a.py": "x = 2\n", "b.py": "y = 2\n", "c.py": "z = 1\n"})
    repository.commit("Three", {"c.py": "z = 2\n"})
    repository.remove_object(repository.git("rev-parse", "HEAD:a.py"))
    for _ in range(2):  # the second time from the cache
        result = ingest(repository.path, tmp_path / "out")
        assert result.rows("file_changes", "path", "status", "patch", "drop_reason") == [
            ("a.py", "A", "@@ -0,0 +1 @@\n+x = 1\n", None),
            ("b.py", "A", "@@ -0,0 +1 @@\n+y = 1\n", None),
            ("a.py", "M", None, "missing_object"),
            ("b.py", "M", "@@ -1 +1 @@\n-y = 1\n+y = 2\n", None),
            ("c.py", "A", "@@ -0,0 +1 @@\n+z = 1\n", None),
            ("c.py", "M", "@@ -1 +1 @@\n-z = 1\n+z = 2\n", None),
        ]
        assert (
            dict(result.rows("snapshot_files", "path", "drop_reason"))["a.py"] == "missing_object"
        )
    assert result.report["history"][0]["commits_read_now"] == 0
    assert any("missing" in warning for warning in result.report["warnings"])


def test_a_missing_tree_drops_only_the_changes_of_its_commit(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"src/a.py": "x = 1\n", "b.py": "y = 1\n"})
    lost = repository.commit("Two", {"src/a.py": "x = 2\n"})
    repository.remove_object(repository.git("rev-parse", "HEAD:src"))
    result = ingest(repository.path, tmp_path / "out")
    assert result.rows("commits", "subject") == [("One",), ("Two",)]
    assert result.report["history"][0]["unreadable_commits"] == [lost]
    assert result.rows("snapshot_files", "path", "drop_reason") == [
        ("b.py", None),
        ("src/", "missing_object"),
    ]


def test_a_damaged_object_drops_only_its_own_changes(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n", "b.py": "y = 1\n"})
    blob = repository.git("rev-parse", "HEAD:a.py")
    repository.remove_object(blob)
    broken = repository.git_dir / "objects" / blob[:2] / blob[2:]
    broken.write_bytes(b"this is no object")
    result = ingest(repository.path, tmp_path / "out")
    assert result.rows("file_changes", "path", "drop_reason") == [
        ("a.py", "missing_object"),
        ("b.py", None),
    ]
    assert result.rows("snapshot_files", "path", "drop_reason") == [
        ("a.py", "missing_object"),
        ("b.py", None),
    ]
    assert result.report["history"][0]["missing"] == [{"object": blob, "path": "a.py"}]
