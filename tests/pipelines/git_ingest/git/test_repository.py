"""Repositories are located by path, bundle or URL; anything else is called what it is."""

import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import build_repository, ingest

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git.repository import check_source, is_bundle, is_url


@pytest.mark.parametrize("kind", ["bare", "bundle", "url", "sha256"])
def test_bare_repositories_bundles_urls_and_sha256_are_read(tmp_path: Path, kind: str) -> None:
    object_format = "sha256" if kind == "sha256" else "sha1"
    repository = GitRepository(
        tmp_path / "project", bare=kind == "bare", object_format=object_format
    )
    sha = repository.commit("One", {"a.py": "x = 1\n"})
    source: Path | str = repository.path
    if kind == "bundle":
        source = tmp_path / "project.bundle"
        repository.git("bundle", "create", str(source), "HEAD", "main")
    elif kind == "url":
        source = f"file://{repository.path}"
    result = ingest(source, tmp_path / "out")
    assert result.rows("commits", "sha", "repo") == [(sha, "project")]
    assert result.rows("snapshot_files", "text") == [("x = 1\n",)]


def _linked_work_tree(repository: GitRepository, folder: Path) -> str:
    repository.git("worktree", "add", "-q", str(folder / "linked"), "-b", "other", "main")
    return str(folder / "linked")


def _submodule(repository: GitRepository, folder: Path) -> str:
    outer = build_repository(folder / "outer")
    allow = ("-c", "protocol.file.allow=always")
    outer.git(*allow, "submodule", "--quiet", "add", str(repository.path), "inner")
    assert (outer.path / "inner" / ".git").is_file()
    return str(outer.path / "inner")


def _separate_git_dir(repository: GitRepository, folder: Path) -> str:
    repository.git("init", "-q", "--separate-git-dir", str(folder / "elsewhere"), ".")
    return str(repository.path)


def _renamed(name: str) -> Callable[[GitRepository, Path], str]:
    def rename(repository: GitRepository, folder: Path) -> str:
        repository.path.rename(folder / name)
        return str(folder / name)

    return rename


def _symlink(repository: GitRepository, folder: Path) -> str:
    (folder / "link").symlink_to(repository.path)
    return str(folder / "link")


SOURCES: dict[str, Callable[[GitRepository, Path], str]] = {
    "trailing slash": lambda repository, _: f"{repository.path}/",
    "the .git folder": lambda repository, _: str(repository.git_dir),
    "dots in the path": lambda repository, _: f"{repository.path}/../project/.",
    "surrounding spaces": lambda repository, _: f"  {repository.path} ",
    "a symbolic link": _symlink,
    "a linked work tree": _linked_work_tree,
    "its .git file": lambda *both: f"{_linked_work_tree(*both)}/.git",
    "a submodule": _submodule,
    "a separate git directory": _separate_git_dir,
    "spaces": _renamed("my own project"),
    "unicode": _renamed("caf\u00e9 \u9879\u76ee \U0001f600"),
    "like an address": _renamed("ann@example.org:project"),
    "like a helper": _renamed("ext::project"),
    "like a drive": _renamed("C:\\project"),
    "like an option": _renamed("--bare"),
    "like a bundle": _renamed("project.bundle"),
    "percent and hash": _renamed("100% #1?x=y"),
    "a newline": _renamed("new\nline"),
    "bytes that are no UTF-8": _renamed(os.fsdecode(b"caf\xe9")),
    "a file URL": lambda repository, _: f"file://{repository.path}",
    "a file URL in capitals": lambda repository, _: f"FILE://{repository.path}",
    "a file URL for pip": lambda repository, _: f"git+file://{repository.path}",
    "a file URL with a slash": lambda repository, _: f"file://{repository.path}/",
    "a file URL with spaces": lambda *both: f"file://{_renamed('my own project')(*both)}",
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_repository_is_found_however_it_is_named(tmp_path: Path, kind: str) -> None:
    repository = build_repository(tmp_path / "project")
    result = ingest(SOURCES[kind](repository, tmp_path), tmp_path / "out")
    assert len(result.rows("commits", "sha")) >= 3


def _write(path: Path, content: bytes | str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def _zip(folder: Path) -> str:
    with zipfile.ZipFile(folder / "project.zip", "w") as archive:
        archive.writestr("x", "y")
    return str(folder / "project.zip")


def _tar(folder: Path, mode: str, name: str) -> str:
    with tarfile.open(folder / name, mode) as archive:  # type: ignore[call-overload]
        archive.add(_write(folder / "member", "x"), "member")
    return str(folder / name)


def _without(name: str) -> Callable[[Path], str]:
    def remove(folder: Path) -> str:
        repository = build_repository(folder / "project")
        path = repository.git_dir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return str(repository.path)

    return remove


def _link_to_nowhere(folder: Path) -> str:
    (folder / "link").symlink_to(folder / "gone")
    return str(folder / "link")


def _circle(folder: Path) -> str:
    (folder / "link").symlink_to(folder / "link")
    return str(folder / "link")


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return str(folder / "pipe")


def _lost_work_tree(folder: Path) -> str:
    repository = build_repository(folder / "project")
    linked = _linked_work_tree(repository, folder)
    shutil.rmtree(repository.path)
    return linked


def _inside(folder: Path) -> str:
    repository = build_repository(folder / "project")
    (repository.path / "inner" / "deep").mkdir(parents=True)
    return str(repository.path / "inner" / "deep")


def _empty_folder(folder: Path) -> str:
    (folder / "plain").mkdir()
    return str(folder / "plain")


def _damaged_bundle(folder: Path) -> str:
    return _write(folder / "x.bundle", b"# v2 git bundle\nno ref\n\n\0")


def _truncated_bundle(folder: Path) -> str:
    repository = build_repository(folder / "project")
    repository.git("bundle", "create", "-q", str(folder / "x.bundle"), "main")
    return _write(folder / "x.bundle", (folder / "x.bundle").read_bytes()[:-30])


NO_SOURCES: dict[str, tuple[Callable[[Path], str], str]] = {
    "nowhere": (lambda folder: f"{folder}/nowhere", "does not exist. Check `repository`"),
    "below a file": (lambda f: f"{_write(f / 'file', 'x')}/inner", "part of the path is a file"),
    "a link to nowhere": (_link_to_nowhere, "symbolic link to .*gone, and that path does"),
    "a circle of links": (_circle, "cannot be read: symbolic links lead in a circle"),
    "too long": (lambda folder: f"{folder}/{'x' * 5000}", "the path is too long"),
    "a NUL": (lambda folder: f"{folder}/a\0b", "the path does not exist"),
    "an unknown user": (lambda folder: "~no-such-user-here/x", "there is no user of that name"),
    "Windows": (lambda folder: "C:\\Users\\ann\\project", "path of Windows; .*is /mnt/c"),
    "Windows, slashes": (lambda folder: "D:/project", "path of Windows; .*is /mnt/d"),
    "GitHub's short form": (lambda f: "ann/project", "write https://github.com/ann/project"),
    "no scheme": (lambda f: "github.com/ann/project", "write https://github.com/ann/project"),
    "no user": (lambda f: "example.org:ann/project", "write user@example.org:ann/project"),
    "ftp": (lambda f: "ftp://example.org/x.git", "cannot be read by ftp. Use one of https"),
    "s3": (lambda f: "s3://bucket/project", "cannot be read by s3"),
    "svn": (lambda f: "svn+ssh://example.org/x", r"cannot be read by svn\+ssh"),
    "a helper": (lambda f: "ext::sh -c touch% x", "transport helper"),
    "an option": (lambda f: "--upload-pack=touch x", "is not a path or URL"),
    "nothing": (lambda f: " ", "is not a path or URL"),
    "an empty file": (lambda f: _write(f / "x", b""), "is an empty file"),
    "a text file": (lambda f: _write(f / "x", "hello\n"), "not a git bundle.*`repositories`"),
    "a list": (lambda f: _write(f / "x", "# v\n/a\n/b\n"), "not a git bundle.*`repositories`"),
    "a zip": (_zip, "not a git bundle: it is a zip archive. Unpack it"),
    "a tar": (lambda folder: _tar(folder, "w", "x.tar"), "it is a tar archive"),
    "a tar.gz": (lambda folder: _tar(folder, "w:gz", "x.tar.gz"), "it is a gzip archive"),
    "a tar.xz": (lambda folder: _tar(folder, "w:xz", "x.tar.xz"), "it is a xz archive"),
    "a tar.bz2": (lambda folder: _tar(folder, "w:bz2", "x.tar.bz2"), "it is a bzip2 archive"),
    "a pipe": (_pipe, "is neither a folder nor a file"),
    "a damaged bundle": (_damaged_bundle, "the bundle is damaged, incomplete"),
    "a truncated bundle": (_truncated_bundle, "interrupted|the bundle is damaged"),
    "an empty folder": (_empty_folder, "not a git repository, but an empty folder"),
    "inside a repository": (_inside, "inside the repository .*/project; pass that"),
    "no HEAD": (_without("HEAD"), "not a complete git directory: it lacks HEAD"),
    "no objects": (_without("objects"), "not a complete git directory: it lacks objects"),
    "no refs": (_without("refs"), "it lacks refs.*mkdir"),
    "a work tree without main": (_lost_work_tree, r"git directory \S+ no longer exists.*repair"),
    ".git that names nothing": (
        lambda folder: str(Path(_write(folder / "x" / ".git", "hello\n")).parent),
        "is a file that names no git directory",
    ),
    ".git that names nowhere": (
        lambda folder: str(Path(_write(folder / "x" / ".git", "gitdir: ../y\n")).parent),
        "linked work tree or a submodule, but its git directory .*/y no longer exists",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_SOURCES)
def test_whatever_is_no_repository_is_called_what_it_is(tmp_path: Path, kind: str) -> None:
    build, message = NO_SOURCES[kind]
    source = build(tmp_path)
    with pytest.raises(RepositoryError, match=message):
        ingest(source, tmp_path / "out")


@pytest.mark.parametrize("kind", [kind for kind in NO_SOURCES if "bundle" not in kind])
def test_it_is_called_so_before_anything_is_loaded(tmp_path: Path, kind: str) -> None:
    build, message = NO_SOURCES[kind]
    with pytest.raises(RepositoryError, match=message):
        check_source(build(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("closed", [".", ".git", ".git/HEAD", ".git/objects", ".git/refs"])
def test_a_repository_without_permission_is_called_so(closed: str) -> None:
    # pytest's own folder is closed to others.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        repository = build_repository(folder / "project")
        (repository.path / closed).chmod(0)
        os.seteuid(65534)
        try:
            with pytest.raises(RepositoryError, match="permission|Permission denied"):
                ingest(repository.path, folder / "out")
        finally:
            os.seteuid(0)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"# v2 git bundle\n", True),
        (b"# v3 git bundle\n@object-format=sha256\n", True),
        (b"# v9 git bundle\n", True),
        (b"# vendors\n", False),
        (b"# v\n", False),
        (b"# v2 of the list\n", False),
        (b"# v2 git bundles of the team\n", False),
        (b" # v2 git bundle\n", False),
        (b"", False),
    ],
)
def test_a_bundle_is_known_by_its_whole_first_line(
    tmp_path: Path, head: bytes, expected: bool
) -> None:
    (tmp_path / "file").write_bytes(head)
    assert is_bundle(tmp_path / "file") == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://example.org/x.git", True), ("HTTPS://example.org/x", True),
        ("ssh://ann@example.org/x", True), ("git@example.org:ann/x.git", True),
        ("file:///x", True), ("git://example.org/x", True), ("ext::x", True), ("hg::x", True),
        ("ann/project", False), ("C:\\x", False), ("C:/x", False), ("C://x", False),
        ("./a@b:c", False), ("/a@b:c", False), ("", False), ("~/x", False), ("x:y", False),
    ],
)  # fmt: skip
def test_an_address_is_not_taken_for_a_path(source: str, expected: bool) -> None:
    assert is_url(source) == expected
