"""A repository whose commit cannot be read is not called empty: each state has its own sentence."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import build_repository, ingest

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git import program


def _loose(repository: GitRepository, ref: str) -> Path:
    sha = repository.git("rev-parse", ref)
    return repository.git_dir / "objects" / sha[:2] / sha[2:]


def _pack(repository: GitRepository) -> Path:
    repository.git("gc", "--quiet")
    (pack,) = (repository.git_dir / "objects" / "pack").glob("*.pack")
    return pack


def _unpacked(folder: Path) -> GitRepository:
    """Return a repository with every object in a file of its own."""
    repository = build_repository(folder)
    packs = list((repository.git_dir / "objects" / "pack").glob("*.pack"))
    contents = [pack.read_bytes() for pack in packs]
    for pack in packs:
        pack.unlink()
        pack.with_suffix(".idx").unlink()
    for content in contents:
        repository._run("unpack-objects", "-q", stdin=content)
    return repository


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.chmod(0o644) if path.exists() else None
    path.write_bytes(content)


def _no_commit_at_all(folder: Path) -> Path:
    return GitRepository(folder / "project").path


def _staged_but_never_committed(folder: Path) -> Path:
    repository = GitRepository(folder / "project")
    repository.write_object("blob", b"x = 1\n")
    return repository.path


def _default_branch_absent(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    repository.git("symbolic-ref", "HEAD", "refs/heads/master")
    return repository.path


def _shared_clone(folder: Path) -> Path:
    origin = build_repository(folder / "origin")
    origin.git("clone", "-q", "--shared", str(origin.path), str(folder / "project"))
    return folder / "project"


def _shared_clone_whose_origin_is_gone(folder: Path) -> Path:
    project = _shared_clone(folder)
    shutil.rmtree(folder / "origin")
    return project


def _lost_commit(folder: Path) -> Path:
    repository = _unpacked(folder / "project")
    _loose(repository, "main").unlink()
    return repository.path


def _detached_at_a_missing_commit(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    (repository.git_dir / "HEAD").write_text("1" * 40 + "\n")
    return repository.path


def _lost_commit_in_the_middle(folder: Path) -> Path:
    repository = _unpacked(folder / "project")
    _loose(repository, "main~1").unlink()
    return repository.path


def _empty_commit_file(folder: Path) -> Path:
    repository = _unpacked(folder / "project")
    _write(_loose(repository, "main"), b"")
    return repository.path


def _empty_commit_file_in_the_middle(folder: Path) -> Path:
    repository = _unpacked(folder / "project")
    _write(_loose(repository, "main~1"), b"")
    return repository.path


def _damaged_commit_file(folder: Path) -> Path:
    repository = _unpacked(folder / "project")
    _write(_loose(repository, "main"), b"\x78\x01 not zlib")
    return repository.path


def _empty_branch_file(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    _write(repository.git_dir / "refs/heads/main", b"")
    return repository.path


def _branch_file_of_zeros(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    _write(repository.git_dir / "refs/heads/main", b"\0" * 41)
    return repository.path


def _empty_head_file(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    _write(repository.git_dir / "HEAD", b"")
    return repository.path


def _damaged_packed_refs(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    repository.git("pack-refs", "--all")
    _write(repository.git_dir / "packed-refs", b"# pack-refs with: peeled\n\0\0\0 garbage\n")
    return repository.path


def _empty_pack_index(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    _write(_pack(repository).with_suffix(".idx"), b"")
    return repository.path


def _damaged_pack_index(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    index = _pack(repository).with_suffix(".idx")
    _write(index, b"\xfftOc\0\0\0\x02" + b"\x00" * 64)
    return repository.path


def _pack_without_index(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    _pack(repository).with_suffix(".idx").unlink()
    return repository.path


def _index_without_pack(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    _pack(repository).unlink()
    return repository.path


def _empty_pack(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    _write(_pack(repository), b"")
    return repository.path


def _unknown_ref_storage(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    repository.git("config", "core.repositoryFormatVersion", "1")
    repository.git("config", "extensions.refStorage", "cloud")
    return repository.path


def _unknown_extension(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    repository.git("config", "core.repositoryFormatVersion", "1")
    repository.git("config", "extensions.holographic", "true")
    return repository.path


def _unknown_object_format(folder: Path) -> Path:
    repository = build_repository(folder / "project")
    repository.git("config", "core.repositoryFormatVersion", "1")
    repository.git("config", "extensions.objectFormat", "blake3")
    return repository.path


def _shallow_beyond_its_boundary(folder: Path) -> Path:
    origin = build_repository(folder / "origin")
    first = origin.git("rev-parse", "main~2")
    project = folder / "project"
    origin.git("clone", "-q", "--depth=1", f"file://{origin.path}", str(project))
    (project / ".git" / "HEAD").write_text(f"{first}\n")
    return project


def _partial_at_an_object_that_was_not_fetched(folder: Path) -> Path:
    origin = build_repository(folder / "origin")
    origin.git("config", "uploadpack.allowFilter", "true")
    project = folder / "project"
    url = f"file://{origin.path}"
    origin.git("clone", "-q", "--no-checkout", "--filter=blob:none", url, str(project))
    (project / ".git" / "HEAD").write_text("2" * 40 + "\n")
    return project


STATES: dict[Callable[[Path], Path], str] = {
    _no_commit_at_all: "The repository is empty: it has no commit. Commit something first",
    _staged_but_never_committed: "has no branch or tag, but it has objects: .* fsck --lost-found",
    _default_branch_absent: "names the branch master, which does not exist. .*ingest.ref=main",
    _shared_clone: "borrows objects from .*origin/.git/objects .*git repack -a -d.*alternates=true",
    _shared_clone_whose_origin_is_gone: "borrows objects from .* which does not exist any more",
    _lost_commit: "cannot read the commit [0-9a-f]{40} that HEAD names: the object is missing",
    _detached_at_a_missing_commit: "commit 1{40} that HEAD names: the object is missing",
    _lost_commit_in_the_middle: "the commit [0-9a-f]{40} of its history: the object is missing",
    _empty_commit_file: "that HEAD names: .* is an empty file, as after a crash",
    _empty_commit_file_in_the_middle: "of its history: .* is an empty file, as after a crash",
    _damaged_commit_file: "that HEAD names: .* is a damaged file",
    _empty_branch_file: "The ref refs/heads/main is damaged.*git reflog refs/heads/main",
    _branch_file_of_zeros: "The ref refs/heads/main is damaged.*git reflog refs/heads/main",
    _empty_head_file: "HEAD is empty or damaged, as after a crash.* git_ingest.ref=main.*symbolic",
    _damaged_packed_refs: "packed-refs is damaged, so that git reads no ref",
    _empty_pack_index: r"the index \S+.idx is damaged. .*git index-pack \S+.pack",
    _damaged_pack_index: r"the index \S+.idx is damaged. .*git index-pack \S+.pack",
    _pack_without_index: r"the pack \S+.pack has no index. .*git index-pack \S+.pack",
    _index_without_pack: r"the pack of \S+.idx is missing. Restore it",
    _empty_pack: r"the pack \S+.pack is damaged. Delete it with its index",
    _unknown_ref_storage: "has extensions.refstorage=cloud, which this program does not know",
    _unknown_extension: "uses the extension 'holographic' of git's repository format",
    _unknown_object_format: "has extensions.objectformat=blake3, which this program does not know",
    _shallow_beyond_its_boundary: "the clone is shallow, .*git fetch --unshallow",
    _partial_at_an_object_that_was_not_fetched: "the clone is partial, .*git fetch --refetch",
}


@pytest.mark.parametrize("build", STATES, ids=lambda build: build.__name__.strip("_"))
def test_each_unreadable_state_has_its_own_sentence(
    tmp_path: Path, build: Callable[[Path], Path]
) -> None:
    project = build(tmp_path)
    with pytest.raises(RepositoryError) as caught:
        ingest(project, tmp_path / "out")
    message = str(caught.value)
    assert re.search(STATES[build], message)
    others = {sentence for sentence in STATES.values() if re.search(sentence, message)}
    assert others - {STATES[_lost_commit]} == {STATES[build]} - {STATES[_lost_commit]}
    assert ("repository is empty" in message) == (build is _no_commit_at_all)


@pytest.mark.parametrize(
    "build", [_default_branch_absent, _empty_head_file, _detached_at_a_missing_commit]
)
def test_a_branch_is_read_although_head_is_of_no_use(
    tmp_path: Path, build: Callable[[Path], Path]
) -> None:
    result = ingest(build(tmp_path), tmp_path / "out", ref="main")
    assert len(result.rows("commits", "sha")) == 3


def test_a_shared_clone_is_read_with_follow_alternates_or_once_it_is_whole(tmp_path: Path) -> None:
    project = _shared_clone(tmp_path)
    trusted = ingest(project, tmp_path / "trusted", follow_alternates=True)
    assert len(trusted.rows("commits", "sha")) == 3
    GitRepository(tmp_path / "unused").git("-C", str(project), "repack", "-a", "-d", "-q")
    assert len(ingest(project, tmp_path / "whole").rows("commits", "sha")) == 3


def test_missing_alternates_are_named_with_follow_alternates_too(tmp_path: Path) -> None:
    project = _shared_clone_whose_origin_is_gone(tmp_path)
    with pytest.raises(RepositoryError, match="borrows objects from .*, which does not exist"):
        ingest(project, tmp_path / "out", follow_alternates=True)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("nosuch", "names no commit in this repository. Existing refs: .*main"),
        ("mian", "Did you mean main"),
        ("main:part0.py", "names a blob, not a commit"),
        ("main^{tree}", "names a tree, not a commit"),
        ("of-a-tree", "is a tag of something other than a commit"),
        ("3" * 40, "cannot read the commit 3{40}: the object is missing"),
        ("main\nx", "is no name of a ref"),
        ("main\0x", "is no name of a ref"),
        ("x" * 5000, "is no name of a ref"),
        ("main..side", "names no commit"),
        ("--output=x", "starts with '-'"),
        ("main~99", "names no commit"),
        ("@{-1}", "asks the reflog"),
        ("main@{yesterday}", "asks the reflog"),
        ("main@{upstream}", "asks the reflog or the upstream"),
        ("../../HEAD", "names no commit"),
    ],
)
def test_a_ref_that_names_no_commit_is_an_error(tmp_path: Path, ref: str, message: str) -> None:
    repository = build_repository(tmp_path / "project")
    repository.git("tag", "-a", "-m", "A tree", "of-a-tree", "main^{tree}")
    with pytest.raises(RepositoryError, match=message):
        ingest(repository.path, tmp_path / "out", ref=ref)


@pytest.mark.parametrize(
    "ref",
    ["v1", "v1^{}", "refs/tags/v1", "tag-of-a-tag", "main", "heads/main", "HEAD", "@", "main~0",
     "refs/heads/HEAD", "-rf/x"],
)  # fmt: skip
def test_whatever_names_a_commit_is_read(tmp_path: Path, ref: str) -> None:
    repository = build_repository(tmp_path / "project")
    head = repository.git("rev-parse", "main")
    repository.git("tag", "-a", "-m", "Release", "v1", "main")
    repository.git("tag", "-a", "-m", "Again", "tag-of-a-tag", "v1")
    repository.git("update-ref", "refs/heads/HEAD", head)
    if ref.startswith("-"):
        ref = "refs/heads/" + ref
        repository.git("update-ref", ref, head)
    result = ingest(repository.path, tmp_path / "out", ref=ref)
    assert result.repository["head"] == head


def test_a_repository_in_a_reftable_needs_a_newer_git_or_is_read(tmp_path: Path) -> None:
    if program.parse_version(program.require_git()) >= program.REFTABLE_GIT_VERSION:
        repository = build_repository(tmp_path / "project")
        repository.git("refs", "migrate", "--ref-format=reftable")
        assert len(ingest(repository.path, tmp_path / "out").rows("commits", "sha")) == 3
        return
    repository = build_repository(tmp_path / "project")
    (repository.git_dir / "reftable").mkdir()
    (repository.git_dir / "HEAD").write_text("ref: refs/heads/.invalid\n")
    (repository.git_dir / "config").write_text(
        "[core]\n\trepositoryformatversion = 1\n[extensions]\n\trefStorage = reftable\n"
    )
    for overrides in ({}, {"ref": "main"}):
        with pytest.raises(RepositoryError, match="in a reftable, which git 2.45 or newer reads"):
            ingest(repository.path, tmp_path / "out", **overrides)


@pytest.mark.parametrize("content", [b"", b"\0" * 200, b"[core\n", b'[extensions]\n\tx = "\n'])
def test_a_damaged_configuration_does_not_keep_whole_objects_from_being_read(
    tmp_path: Path, content: bytes
) -> None:
    repository = build_repository(tmp_path / "project")
    (repository.git_dir / "config").write_bytes(content)
    assert len(ingest(repository.path, tmp_path / "out").rows("commits", "sha")) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_repository_of_another_user_is_read_by_its_path(tmp_path: Path) -> None:
    repository = build_repository(tmp_path / "project")
    for path in [repository.path, *repository.path.rglob("*")]:
        os.chown(path, 65534, 65534)
    assert len(ingest(repository.path, tmp_path / "out").rows("commits", "sha")) == 3
    message = ""
    try:
        ingest(f"file://{repository.path}", tmp_path / "url")
    except RepositoryError as error:  # not by every version of git
        message = str(error)
    assert not message or "belongs to another user, and git does not open it" in message


def test_a_tag_and_a_branch_of_one_name_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repository = build_repository(tmp_path / "project")
    repository.git("tag", "main", "main~1")
    tag, branch = repository.git("rev-parse", "refs/tags/main", "refs/heads/main").split()
    with caplog.at_level("WARNING"):
        assert ingest(repository.path, tmp_path / "one", ref="main").repository["head"] == tag
    assert "is a tag and a branch. The tag is read, as by git; heads/main" in caplog.text
    head = ingest(repository.path, tmp_path / "two", ref="heads/main").repository["head"]
    assert head == branch


@pytest.mark.parametrize("name", ["packed-refs", "refs/heads/pipe", "objects/pack/pipe.pack"])
def test_a_pipe_in_the_git_directory_is_not_waited_for(tmp_path: Path, name: str) -> None:
    repository = build_repository(tmp_path / "project")
    path = repository.git_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(RepositoryError, match=f"{re.escape(name)} is a pipe, a socket or a device"):
        ingest(repository.path, tmp_path / "out")
