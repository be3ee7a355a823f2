"""A hostile repository runs no program, exposes no outside file, and is not modified."""

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
    """Return a digest of every name, type, mode, mtime and content below ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        digest.update(f"{path.relative_to(folder)} {stat.st_mode} {stat.st_mtime_ns}".encode())
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


def _build_trapped_repository(folder: Path) -> tuple[GitRepository, Path]:
    """Return a repository that runs a program wherever git allows it, and the file it creates."""
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
        # Fetching a missing blob would run the program.
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


def test_programs_in_the_configuration_are_not_run(tmp_path: Path) -> None:
    repository, canary = _build_trapped_repository(tmp_path)
    repository.remove_object(repository.git("rev-parse", "HEAD~1:a.py"))
    repository.git("config", "include.path", "/dev/zero")
    before = _fingerprint(repository.path)

    result = ingest(repository.path, tmp_path / "out", all_branches=True)

    assert not canary.exists()
    assert _fingerprint(repository.path) == before
    assert result.rows("file_changes", "path", "drop_reason") == [
        (".gitattributes", None),
        ("a.py", "missing_object"),
        ("a.py", "missing_object"),
    ]
    assert result.rows("snapshot_files", "text")[1] == ("x = 2\n",)


def test_a_hostile_repository_behind_a_url_runs_no_program(tmp_path: Path) -> None:
    repository, canary = _build_trapped_repository(tmp_path)
    before = _fingerprint(repository.path)
    for _ in range(2):  # cloned, then fetched
        result = ingest(f"file://{repository.path}", tmp_path / "out")
        assert result.rows("commits", "subject") == [("One",), ("Two",)]
    assert not canary.exists()
    assert _fingerprint(repository.path) == before


def test_the_traps_trigger_outside_the_sandbox(tmp_path: Path) -> None:
    # Otherwise the two tests above would prove nothing.
    repository, canary = _build_trapped_repository(tmp_path)
    repository.git("diff", "--ext-diff", "HEAD~1", "HEAD")
    assert canary.exists()


def test_refs_that_look_like_options_are_read_as_names(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    branch_tip = repository.commit("Side", {"b.py": "y = 1\n"}, branch="side")
    for name in ("--output=owned", "-c", "--upload-pack=touch owned"):
        ref = repository.git_dir / "refs" / "heads" / name
        ref.write_text(branch_tip + "\n")
    (repository.git_dir / "HEAD").write_text("ref: refs/heads/--output=owned\n")
    result = ingest(repository.path, tmp_path / "out", all_branches=True)
    assert {subject for (subject,) in result.rows("commits", "subject")} == {"One", "Side"}
    assert not list(tmp_path.rglob("owned"))


def test_replace_refs_and_symlinks_are_ignored(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("private\n")
    repository = GitRepository(tmp_path / "project")
    first = repository.commit("One", {"a.py": "x = 1\n"})
    second = repository.commit("Two", {"a.py": "x = 2\n", "out": Symlink(str(outside))})
    repository.git("replace", second, first)
    result = ingest(repository.path, tmp_path / "out")
    assert [sha for (sha,) in result.rows("commits", "sha")] == [first, second]
    assert dict(result.rows("snapshot_files", "path", "drop_reason"))["out"] == "symlink"
    assert "private" not in str(result.all_rows())


def test_alternates_are_read_only_with_follow_alternates(tmp_path: Path) -> None:
    alternate = GitRepository(tmp_path / "alternate")
    alternate.commit("One", {"a.py": "x = 1\n"})
    blob = alternate.git("rev-parse", "HEAD:a.py")
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    repository.remove_object(blob)
    alternates = repository.git_dir / "objects" / "info" / "alternates"
    alternates.parent.mkdir(exist_ok=True)
    alternates.write_text(f"{alternate.git_dir / 'objects'}\n")

    alone = ingest(repository.path, tmp_path / "alone")
    assert alone.rows("snapshot_files", "drop_reason") == [("missing_object",)]
    assert any("follow_alternates" in warning for warning in alone.report["warnings"])
    trusted = ingest(repository.path, tmp_path / "trusted", follow_alternates=True)
    assert trusted.rows("snapshot_files", "text") == [("x = 1\n",)]


@pytest.mark.parametrize(
    "inside",
    ["objects", "objects/pack", "objects/pack/*.pack", "refs/heads", "packed-refs", "HEAD"],
)
def test_external_symlinks_are_followed_only_with_follow_alternates(
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


def test_symlinks_inside_the_git_directory_are_followed(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    pack = repository.git_dir / "objects" / "pack"
    repository.git("gc", "--quiet")
    pack.rename(repository.git_dir / "packs")
    pack.symlink_to("../packs")
    result = ingest(repository.path, tmp_path / "out")
    assert result.rows("snapshot_files", "text") == [("x = 1\n",)]


def test_a_shallow_clone_is_read_with_a_warning(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    for i in range(5):
        repository.commit(f"Step {i}", {"a.py": f"x = {i}\n"})
    repository.git("clone", "-q", "--depth=2", f"file://{repository.path}", str(tmp_path / "cut"))
    result = ingest(tmp_path / "cut", tmp_path / "out")
    assert result.rows("commits", "subject") == [("Step 3",), ("Step 4",)]
    assert any("shallow" in warning for warning in result.report["warnings"])


def test_a_gigabyte_of_zeros_is_dropped_without_inflating_it(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    kept = ("100644", repository.git("rev-parse", "HEAD:a.py"))
    head = repository.git("rev-parse", "HEAD")
    # The last two are so similar that rename detection would compare their content.
    for name, n_blocks in (("bomb.txt", 64), ("large.txt", 12), ("similar.txt", 11)):
        tree = repository.write_tree({"a.py": kept, name: ("100644", _bomb(repository, n_blocks))})
        head = repository.git("commit-tree", "-p", head, "-m", f"Now {name}", tree)
    repository.git("update-ref", "refs/heads/main", head)

    out = subprocess.run(
        [
            sys.executable,
            "-c",
            _INGEST_AND_CHECK_MEMORY,
            str(repository.path),
            str(tmp_path / "out"),
        ],
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
    """Write a small object that inflates to one line of ``n_blocks`` times 16 MiB."""
    block = b"0" * (1 << 24)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    # A full flush resets the compressor, so the compressed block can be repeated.
    compressed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
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
        + compressed * n_blocks + b"\x01\0\0\xff\xff" + check.to_bytes(4, "big")
    )  # fmt: skip
    return sha.hexdigest()


_INGEST_AND_CHECK_MEMORY = """
import json, resource, sys
from pathlib import Path
from tests.pipelines.git_ingest.ingesting import ingest


result = ingest(Path(sys.argv[1]), Path(sys.argv[2]))
peaks_mib = [resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10]
status = Path("/proc/self/status")  # getrusage would include the memory of the parent at fork
if status.exists():
    peaks_mib.append(int(status.read_text().split("VmHWM:")[1].split()[0]) >> 10)
assert max(peaks_mib) < 400, peaks_mib
rows = result.rows("file_changes", "path", "drop_reason")
print(json.dumps(rows + result.rows("snapshot_files", "path", "drop_reason")))
"""


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
        result = ingest(clone, tmp_path / f"out-{clone.name}")
        assert result.rows("commits", "subject") == [("One",), ("Two",)]
        assert result.rows("file_changes", "drop_reason") == [("missing_object",)] * changes
        assert {r for (r,) in result.rows("snapshot_files", "drop_reason")} == {"missing_object"}
        assert any("missing" in w or "cannot be read" in w for w in result.report["warnings"])
        assert _fingerprint(clone) == before
    blobs = {m["object"] for m in result.report["snapshots"][-1]["missing"]}
    assert blobs
