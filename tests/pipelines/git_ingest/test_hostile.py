"""A hostile or damaged repository executes nothing, reads nothing outside, and is left alone."""

import hashlib
from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository, Symlink
from tests.pipelines.git_ingest.ingesting import ingest


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        if path.is_file() and not path.is_symlink():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def test_configuration_that_runs_programs_runs_none(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    program = tmp_path / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {canary}\ncat\n")
    program.chmod(0o755)
    repository = GitRepository(tmp_path / "project")
    attributes = "* diff=evil filter=evil textconv=evil\n"
    repository.commit("One", {"a.py": "x = 1\n", ".gitattributes": attributes})
    repository.commit("Two", {"a.py": "x = 2\n"})
    for key in (
        "diff.external", "diff.evil.command", "diff.evil.textconv", "filter.evil.clean",
        "filter.evil.smudge", "filter.evil.process", "core.fsmonitor", "core.pager", "pager.log",
        "core.sshCommand", "core.askPass", "credential.helper", "gpg.program", "core.editor",
        "uploadpack.packObjectsHook", "alias.log", "alias.rev-list",
    ):  # fmt: skip
        repository.git("config", key, str(program))
    repository.git("config", "log.showSignature", "true")
    repository.git("config", "include.path", "/dev/zero")
    hooks = repository.git_dir / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc"):
        (hooks / name).symlink_to(program)
    before = _fingerprint(repository.path)

    got = ingest(repository.path, tmp_path / "out")

    assert not canary.exists()
    assert _fingerprint(repository.path) == before
    assert got.rows("file_changes", "path", "patch")[-1] == (
        "a.py",
        "@@ -1 +1 @@\n-x = 1\n+x = 2\n",
    )


def test_replace_refs_and_symlinks_do_not_change_what_is_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("private\n")
    repository = GitRepository(tmp_path / "project")
    first = repository.commit("One", {"a.py": "x = 1\n"})
    second = repository.commit("Two", {"a.py": "x = 2\n", "out": Symlink(str(outside))})
    repository.git("replace", second, first)
    got = ingest(repository.path, tmp_path / "out")
    assert [sha for (sha,) in got.rows("commits", "sha")] == [first, second]
    assert dict(got.rows("snapshot_files", "path", "drop_reason"))["out"] == "symlink"
    assert "private" not in str(got.all_rows())


def test_objects_outside_are_read_only_when_asked(tmp_path: Path) -> None:
    lender = GitRepository(tmp_path / "lender")
    lender.commit("One", {"a.py": "x = 1\n"})
    blob = lender.git("rev-parse", "HEAD:a.py")
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    repository.remove_object(blob)
    alternates = repository.git_dir / "objects" / "info" / "alternates"
    alternates.parent.mkdir(exist_ok=True)
    alternates.write_text(f"{lender.git_dir / 'objects'}\n")

    alone = ingest(repository.path, tmp_path / "alone")
    assert alone.rows("snapshot_files", "drop_reason") == [("missing_object",)]
    assert any("follow_alternates" in warning for warning in alone.report["warnings"])
    trusted = ingest(repository.path, tmp_path / "trusted", follow_alternates=True)
    assert trusted.rows("snapshot_files", "text") == [("x = 1\n",)]


def test_a_missing_blob_takes_only_its_own_changes_with_it(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n", "b.py": "y = 1\n"})
    repository.commit("Two", {"a.py": "x = 2\n", "b.py": "y = 2\n", "c.py": "z = 1\n"})
    repository.commit("Three", {"c.py": "z = 2\n"})
    repository.remove_object(repository.git("rev-parse", "HEAD:a.py"))
    for _ in range(2):  # the second time from what was kept
        got = ingest(repository.path, tmp_path / "out")
        assert got.rows("file_changes", "path", "status", "patch", "drop_reason") == [
            ("a.py", "A", "@@ -0,0 +1 @@\n+x = 1\n", None),
            ("b.py", "A", "@@ -0,0 +1 @@\n+y = 1\n", None),
            ("a.py", "M", None, "missing_object"),
            ("b.py", "M", "@@ -1 +1 @@\n-y = 1\n+y = 2\n", None),
            ("c.py", "A", "@@ -0,0 +1 @@\n+z = 1\n", None),
            ("c.py", "M", "@@ -1 +1 @@\n-z = 1\n+z = 2\n", None),
        ]
        assert dict(got.rows("snapshot_files", "path", "drop_reason"))["a.py"] == "missing_object"
    assert got.report["history"][0]["commits_read_now"] == 0
    assert any("missing" in warning for warning in got.report["warnings"])


def test_a_missing_tree_leaves_the_commit_and_the_rest(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"src/a.py": "x = 1\n", "b.py": "y = 1\n"})
    lost = repository.commit("Two", {"src/a.py": "x = 2\n"})
    repository.remove_object(repository.git("rev-parse", "HEAD:src"))
    got = ingest(repository.path, tmp_path / "out")
    assert got.rows("commits", "subject") == [("One",), ("Two",)]
    assert got.report["history"][0]["unreadable_commits"] == [lost]
    assert got.rows("snapshot_files", "path", "drop_reason") == [
        ("b.py", None),
        ("src/", "missing_object"),
    ]


def test_a_shallow_clone_is_read_and_named(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    for i in range(5):
        repository.commit(f"Step {i}", {"a.py": f"x = {i}\n"})
    repository.git("clone", "-q", "--depth=2", f"file://{repository.path}", str(tmp_path / "cut"))
    got = ingest(tmp_path / "cut", tmp_path / "out")
    assert got.rows("commits", "subject") == [("Step 3",), ("Step 4",)]
    assert any("shallow" in warning for warning in got.report["warnings"])


def test_a_huge_blob_is_left_out_and_never_loaded(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    zeros = b"0" * (3 << 20)
    repository.commit("One", {"bomb.txt": zeros, "a.py": "x = 1\n"})
    repository.commit("Two", {"bomb.txt": zeros + b"1"})
    got = ingest(repository.path, tmp_path / "out")
    assert got.rows("file_changes", "path", "drop_reason") == [
        ("a.py", None),
        ("bomb.txt", "too_large"),
        ("bomb.txt", "too_large"),
    ]
    assert dict(got.rows("snapshot_files", "path", "drop_reason"))["bomb.txt"] == "too_large"


@pytest.mark.parametrize("kind", ["bare", "bundle", "url", "sha256"])
def test_every_kind_of_input(tmp_path: Path, kind: str) -> None:
    object_format = "sha256" if kind == "sha256" else "sha1"
    repository = GitRepository(
        tmp_path / "project", bare=kind == "bare", object_format=object_format
    )
    sha = repository.commit("One", {"a.py": "x = 1\n"})
    given: Path | str = repository.path
    if kind == "bundle":
        given = tmp_path / "project.bundle"
        repository.git("bundle", "create", str(given), "HEAD", "main")
    elif kind == "url":
        given = f"file://{repository.path}"
    got = ingest(given, tmp_path / "out")
    assert got.rows("commits", "sha", "repo") == [(sha, "project")]
    assert got.rows("snapshot_files", "text") == [("x = 1\n",)]


def test_several_repositories_in_one_run(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        repository = GitRepository(tmp_path / name)
        repository.commit(f"Begin {name}", {"a.py": f"x = '{name}'\n"})
        paths.append(repository.path)
    got = ingest(".", tmp_path / "out", repositories=paths)
    assert got.rows("commits", "repo", "subject") == [("one", "Begin one"), ("two", "Begin two")]
    assert got.rows("snapshot_files", "repo", "text") == [
        ("one", "x = 'one'\n"),
        ("two", "x = 'two'\n"),
    ]
