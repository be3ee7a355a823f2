"""A hostile or damaged repository executes nothing, reads nothing outside, and is left alone."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository, Symlink
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.errors import RepositoryError


def _fingerprint(folder: Path) -> str:
    """Digest of every name, kind, mode, time of change and content below ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        digest.update(f"{path.relative_to(folder)} {facts.st_mode} {facts.st_mtime_ns}".encode())
        if path.is_symlink():
            digest.update(str(path.readlink()).encode())
        elif path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


_PROGRAMS = (
    "diff.external", "diff.evil.command", "diff.evil.textconv", "filter.evil.clean",
    "filter.evil.smudge", "filter.evil.process", "merge.evil.driver", "core.fsmonitor",
    "core.pager", "pager.log", "pager.diff-tree", "core.sshCommand", "core.askPass",
    "core.gitProxy", "core.editor", "core.alternateRefsCommand", "sequence.editor",
    "credential.helper", "gpg.program", "gpg.ssh.program", "uploadpack.packObjectsHook",
    "remote.origin.uploadpack", "remote.origin.vcs", "trailer.evil.command", "trailer.evil.cmd",
    "interactive.diffFilter", "mailmap.file", "alias.log", "alias.rev-list", "alias.diff-tree",
)  # fmt: skip


def _with_traps(folder: Path) -> tuple[GitRepository, Path]:
    """A repository that runs a program wherever git lets it, and the file that would appear."""
    canary, program = folder / "canary", folder / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {canary}\ncat\n")
    program.chmod(0o755)
    repository = GitRepository(folder / "project")
    attributes = "* diff=evil filter=evil merge=evil textconv=evil\n"
    repository.commit("One", {"a.py": "x = 1\n", ".gitattributes": attributes})
    repository.commit("Two\n\nevil: trailer", {"a.py": "x = 2\n"})
    (repository.git_dir / "info").mkdir(exist_ok=True)
    (repository.git_dir / "info" / "attributes").write_text(attributes)
    included = folder / "included.config"
    included.write_text(f"[core]\n\tfsmonitor = {program}\n[diff]\n\texternal = {program}\n")
    for key in _PROGRAMS:
        repository.git("config", key, str(program))
    settings = {
        "log.showSignature": "true",
        "core.hooksPath": str(folder / "hooks"),
        "includeIf.gitdir:/.path": str(included),
        # A blob that is missing would be fetched by running the program.
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": f"ext::{program}",
        "protocol.ext.allow": "always",
        "protocol.allow": "always",
    }
    for key, value in settings.items():
        repository.git("config", key, value)
    for hooks in (repository.git_dir / "hooks", folder / "hooks"):
        hooks.mkdir(exist_ok=True)
        for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc",
                     "fsmonitor-watchman", "pre-receive", "update", "post-update"):  # fmt: skip
            (hooks / name).symlink_to(program)
    return repository, canary


def test_configuration_that_runs_programs_runs_none(tmp_path: Path) -> None:
    repository, canary = _with_traps(tmp_path)
    repository.remove_object(repository.git("rev-parse", "HEAD~1:a.py"))
    repository.git("config", "include.path", "/dev/zero")
    before = _fingerprint(repository.path)

    got = ingest(repository.path, tmp_path / "out", all_branches=True)

    assert not canary.exists()
    assert _fingerprint(repository.path) == before
    assert got.rows("file_changes", "path", "drop_reason") == [
        (".gitattributes", None),
        ("a.py", "missing_object"),
        ("a.py", "missing_object"),
    ]
    assert got.rows("snapshot_files", "text")[1] == ("x = 2\n",)


def test_a_hostile_repository_behind_a_url_runs_nothing_either(tmp_path: Path) -> None:
    repository, canary = _with_traps(tmp_path)
    before = _fingerprint(repository.path)
    for _ in range(2):  # cloned, then fetched
        got = ingest(f"file://{repository.path}", tmp_path / "out")
        assert got.rows("commits", "subject") == [("One",), ("Two",)]
    assert not canary.exists()
    assert _fingerprint(repository.path) == before


def test_the_traps_work_where_git_is_used_carelessly(tmp_path: Path) -> None:
    # Or the two tests before this one would prove nothing.
    repository, canary = _with_traps(tmp_path)
    repository.git("diff", "--ext-diff", "HEAD~1", "HEAD")
    assert canary.exists()


def test_refs_that_look_like_options_are_names(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    side = repository.commit("Side", {"b.py": "y = 1\n"}, branch="side")
    for name in ("--output=owned", "-c", "--upload-pack=touch owned"):
        ref = repository.git_dir / "refs" / "heads" / name
        ref.write_text(side + "\n")
    (repository.git_dir / "HEAD").write_text("ref: refs/heads/--output=owned\n")
    got = ingest(repository.path, tmp_path / "out", all_branches=True)
    assert {subject for (subject,) in got.rows("commits", "subject")} == {"One", "Side"}
    assert not list(tmp_path.rglob("owned"))


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


@pytest.mark.parametrize(
    "inside",
    ["objects", "objects/pack", "objects/pack/*.pack", "refs/heads", "packed-refs", "HEAD"],
)
def test_links_out_of_the_git_folder_are_followed_only_when_asked(
    tmp_path: Path, inside: str
) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    repository.git("gc", "--quiet")
    (link,) = repository.git_dir.glob(inside)
    link.rename(tmp_path / "outside")
    link.symlink_to(tmp_path / "outside")
    with pytest.raises(RepositoryError, match=rf"{re.escape(str(link))} .* {tmp_path}/outside,"):
        ingest(repository.path, tmp_path / "alone")
    trusted = ingest(repository.path, tmp_path / "trusted", follow_alternates=True)
    assert trusted.rows("snapshot_files", "text") == [("x = 1\n",)]


def test_links_that_stay_in_the_git_folder_are_followed(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    pack = repository.git_dir / "objects" / "pack"
    repository.git("gc", "--quiet")
    pack.rename(repository.git_dir / "packs")
    pack.symlink_to("../packs")
    got = ingest(repository.path, tmp_path / "out")
    assert got.rows("snapshot_files", "text") == [("x = 1\n",)]


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


def test_a_gigabyte_of_zeros_is_left_out_and_never_unpacked(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    kept = ("100644", repository.git("rev-parse", "HEAD:a.py"))
    head = repository.git("rev-parse", "HEAD")
    # The last two are so alike that git would like to compare them byte by byte.
    for name, n_blocks in (("bomb.txt", 64), ("large.txt", 12), ("similar.txt", 11)):
        tree = repository.write_tree({"a.py": kept, name: ("100644", _bomb(repository, n_blocks))})
        head = repository.git("commit-tree", "-p", head, "-m", f"Now {name}", tree)
    repository.git("update-ref", "refs/heads/main", head)

    out = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(repository.path), str(tmp_path / "out")],
        cwd=Path(__file__).parents[4],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        capture_output=True,
    )
    assert json.loads(out.stdout.splitlines()[-1]) == [
        ["a.py", None], ["bomb.txt", "too_large"], ["bomb.txt", "too_large"],
        ["large.txt", "too_large"], ["large.txt", "too_large"], ["similar.txt", "too_large"],
        ["a.py", None], ["similar.txt", "too_large"],
    ]  # fmt: skip


def _bomb(repository: GitRepository, n_blocks: int) -> str:
    """Put a line of ``n_blocks`` times 16 MiB into the repository; the object is small."""
    block = b"0" * (1 << 24)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    # Each flush begins anew, so the block packed once can stand there any number of times.
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    header = b"blob %d\0" % (n_blocks * len(block))
    sha, check = hashlib.sha1(header), zlib.adler32(header)
    for _ in range(n_blocks):
        sha.update(block)
        check = zlib.adler32(block, check)
    starter = zlib.compressobj(1, zlib.DEFLATED, -15)
    path = repository.git_dir / "objects" / sha.hexdigest()[:2] / sha.hexdigest()[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        b"\x78\x01" + starter.compress(header) + starter.flush(zlib.Z_FULL_FLUSH)
        + packed * n_blocks + b"\x01\0\0\xff\xff" + check.to_bytes(4, "big")
    )  # fmt: skip
    return sha.hexdigest()


_MEASURED = """
import json, resource, sys
from pathlib import Path
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.errors import RepositoryError
got = ingest(Path(sys.argv[1]), Path(sys.argv[2]))
peaks_mib = [resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10]
status = Path("/proc/self/status")  # getrusage would count what the parent held when it forked
if status.exists():
    peaks_mib.append(int(status.read_text().split("VmHWM:")[1].split()[0]) >> 10)
assert max(peaks_mib) < 400, peaks_mib
rows = got.rows("file_changes", "path", "drop_reason")
print(json.dumps(rows + got.rows("snapshot_files", "path", "drop_reason")))
"""


def test_a_tree_of_very_many_files_is_a_row_each(tmp_path: Path) -> None:
    # A hundredth of the size that was tried by hand, see docs/experiments.md.
    repository = GitRepository(tmp_path / "project")
    blobs = [repository.write_object("blob", b"line %d\n" % i) for i in range(10)]
    leaf = repository.write_tree({f"f{i:03}.txt": ("100644", blobs[i % 10]) for i in range(100)})
    tree = repository.write_tree({f"d{i:03}": ("40000", leaf) for i in range(100)})
    commit = repository.git("commit-tree", "-m", "Add very many", tree)
    repository.git("update-ref", "refs/heads/main", commit)
    got = ingest(repository.path, tmp_path / "out")
    assert got.report["history"][0]["kept_rows"] == 10_000
    assert got.report["snapshots"][0]["kept_rows"] == 10
    assert got.report["snapshots"][0]["dropped"]["duplicate"]["rows"] == 9_990
    assert len(set(got.rows("snapshot_files", "path"))) == 10_000


@pytest.mark.parametrize("path", ["x" * 4000, "/".join(["deep" * 10] * 98)])
def test_a_path_of_4000_characters(tmp_path: Path, path: str) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {path: "x = 1\n"})
    got = ingest(repository.path, tmp_path / "out")
    assert len(path) >= 4000
    assert got.rows("snapshot_files", "path", "text") == [(path, "x = 1\n")]
    assert got.rows("file_changes", "path") == [(path,)]


def test_a_partial_clone_is_read_without_fetching(tmp_path: Path) -> None:
    origin = GitRepository(tmp_path / "origin")
    origin.commit("One", {"src/a.py": "x = 1\n"})
    origin.commit("Two", {"src/a.py": "x = 2\n", "b.py": "y = 1\n"})
    origin.git("config", "uploadpack.allowFilter", "true")
    for kind, changes in (("blob:none", 3), ("tree:0", 0)):
        clone = tmp_path / kind.replace(":", "-")
        url = f"file://{origin.path}"
        origin.git("clone", "-q", "--no-checkout", f"--filter={kind}", url, str(clone))
        before = _fingerprint(clone)
        got = ingest(clone, tmp_path / f"out-{clone.name}")
        assert got.rows("commits", "subject") == [("One",), ("Two",)]
        assert got.rows("file_changes", "drop_reason") == [("missing_object",)] * changes
        assert {r for (r,) in got.rows("snapshot_files", "drop_reason")} == {"missing_object"}
        assert any("missing" in w or "cannot be read" in w for w in got.report["warnings"])
        assert _fingerprint(clone) == before
    blobs = {m["object"] for m in got.report["snapshots"][-1]["missing"]}
    assert blobs


def test_a_damaged_object_takes_only_its_own_changes_with_it(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n", "b.py": "y = 1\n"})
    blob = repository.git("rev-parse", "HEAD:a.py")
    repository.remove_object(blob)
    broken = repository.git_dir / "objects" / blob[:2] / blob[2:]
    broken.write_bytes(b"this is no object")
    got = ingest(repository.path, tmp_path / "out")
    assert got.rows("file_changes", "path", "drop_reason") == [
        ("a.py", "missing_object"),
        ("b.py", None),
    ]
    assert got.rows("snapshot_files", "path", "drop_reason") == [
        ("a.py", "missing_object"),
        ("b.py", None),
    ]
    assert got.report["history"][0]["missing"] == [{"object": blob, "path": "a.py"}]


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
