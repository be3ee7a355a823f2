"""A private git folder through which a repository is read, so that nothing in it can act.

No command ever runs with the repository's own configuration. The private folder has a
configuration of ours; its objects and refs are links into the repository. Filters, hooks,
external diffs, pagers, attributes, replace refs, promisor remotes and alternates of the
repository are never seen by git, and the repository is never written to.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from the_block_llm.errors import RepositoryError, StorageError
from the_block_llm.pipelines.git_ingest.git.outside_links import refuse_links_outside
from the_block_llm.pipelines.git_ingest.git.program import reading_environment
from the_block_llm.pipelines.git_ingest.git.repository import RepositorySource
from the_block_llm.pipelines.git_ingest.git.temp_dirs import own_name, sweep_leftovers

# Git loads a file that was added or deleted whole, however large, before it says "binary".
_MAX_ALLOCATION_BYTES: Final = 128 << 20
_SHA256: Final = re.compile(rb"objectformat\s*=\s*sha256", re.IGNORECASE)
_SHA: Final = re.compile(r"^[0-9a-f]{40}(?:[0-9a-f]{24})?$")
_EMPTY_TREE: Final = {
    "sha1": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "sha256": "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}
# Small windows keep resident memory flat on packs of any size and cost under 2 % of time.
_CONFIG: Final = """\
[core]
	repositoryformatversion = 1
	bare = true
	logAllRefUpdates = false
	fsmonitor = false
	hooksPath = {null}
	attributesFile = {null}
	quotePath = true
	bigFileThreshold = {max_file_bytes}
	packedGitWindowSize = 4m
	packedGitLimit = 32m
	deltaBaseCacheLimit = 24m
[extensions]
	objectFormat = {object_format}{ref_storage}
[attr]
	tree = {empty_tree}
[gc]
	auto = 0
[protocol]
	allow = never
[mailmap]
	blob = {mailmap}
[i18n]
	logOutputEncoding = UTF-8
[diff]
	renameLimit = 1000
"""


@dataclass(frozen=True)
class PrivateView:
    """Runs git on a repository through a private git folder. Cheap to pickle."""

    git_dir: Path
    max_file_bytes: int

    @property
    def _max_allocation_bytes(self) -> int:
        return max(_MAX_ALLOCATION_BYTES, 4 * self.max_file_bytes)

    def start(
        self, *arguments: str | bytes, stdin: int | IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start git with its output, and where ``stdin`` asks for it its input, in pipes."""
        return subprocess.Popen(
            ["git", *arguments],
            env=reading_environment(self.git_dir, self._max_allocation_bytes),
            cwd=self.git_dir,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    def read(self, *arguments: str | bytes, stdin: bytes = b"") -> bytes:
        """Run git to its end and return what it printed.

        Raises:
            GitStoppedError: It ended with another exit code than 0.
        """
        done = subprocess.run(
            ["git", *arguments],
            env=reading_environment(self.git_dir, self._max_allocation_bytes),
            cwd=self.git_dir,
            input=stdin,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise GitStoppedError(done.stderr.decode("utf-8", "replace").strip())
        return done.stdout

    def lines(
        self, *arguments: str, separator: bytes = b"\n", stdin: IO[bytes] | None = None
    ) -> Iterator[bytes]:
        """Yield what git prints, piece by piece, without the separator.

        ``stdin`` is a file that git reads.

        Raises:
            GitStoppedError: It ended with another exit code than 0.
        """
        process = self.start(*arguments, stdin=stdin)
        assert process.stdout is not None  # noqa: S101
        try:
            rest = b""
            while block := process.stdout.read(1 << 16):
                *pieces, rest = (rest + block).split(separator)
                yield from pieces
            if process.wait() != 0:
                raise GitStoppedError(f"git {arguments[0]} ended with {process.returncode}")
            if rest:
                yield rest
        finally:
            process.stdout.close()
            process.kill()
            process.wait()

    def present(self, shas: Iterable[str]) -> dict[str, int]:
        """Size in bytes of those of ``shas`` that can be read; absent ones are left out."""
        asked = "".join(f"{sha}\n" for sha in shas).encode()
        if not asked:
            return {}
        said = self.read(
            "cat-file", "--batch-check=%(objectname) %(objectsize)", "--buffer", stdin=asked
        )
        found = (line.split(b" ") for line in said.splitlines())
        return {sha.decode(): int(size) for sha, size in found if size.isdigit()}


class GitStoppedError(Exception):
    """Git ended before it had said everything: a missing, damaged or oversized object."""


@contextmanager
def private_view(
    source: RepositorySource,
    cache_folder: Path,
    *,
    max_file_bytes: int,
    follow_alternates: bool,
    mailmap_commit: str | None = None,
) -> Iterator[PrivateView]:
    """Open ``source`` for reading; the private folder lives as long as the context.

    Args:
        source: The repository.
        cache_folder: The private folder is made in there.
        max_file_bytes: Git treats larger files as binary and never loads them whole.
        follow_alternates: Also read object stores that the repository borrows from, and what
            links in its git folder lead to.
        mailmap_commit: Take ``.mailmap`` from this commit's tree.

    Raises:
        RepositoryError: A link leads out of the repository and is not to be followed.
        StorageError: The cache folder cannot be written.
    """
    if not follow_alternates:
        refuse_links_outside(source)
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        sweep_leftovers(cache_folder)
        holder = tempfile.TemporaryDirectory(prefix=f"{own_name('view')}-", dir=cache_folder)
    except OSError as error:
        raise StorageError(
            f"Cannot write to {cache_folder}: {error.strerror}. Make it writable or set "
            "git_ingest.cache_folder to another folder."
        ) from error
    with holder as folder:
        git_dir = Path(folder).absolute()
        _link_objects(source, git_dir, follow_alternates=follow_alternates)
        _link_refs(source, git_dir)
        _write_config(source, git_dir, max_file_bytes, mailmap_commit)
        yield PrivateView(git_dir, max_file_bytes)


def resolve_commit(view: PrivateView, ref: str) -> str:
    """Return the sha of the commit that ``ref`` names.

    Raises:
        RepositoryError: It names none.
    """
    if ref.startswith("-"):
        raise RepositoryError(
            f"git_ingest.ref={ref!r} begins with '-', which git would take as an option. Give a "
            "branch, a tag or a commit."
        )
    try:
        return view.read("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").decode().strip()
    except GitStoppedError:
        pass
    if ref == "HEAD":
        raise RepositoryError(
            "The repository is empty: HEAD names no commit. Commit something first, or set "
            "git_ingest.ref to a branch that has commits."
        )
    known = view.read("for-each-ref", "--format=%(refname:short)", "--count=8").decode(
        "utf-8", "replace"
    )
    raise RepositoryError(
        f"git_ingest.ref={ref!r} names no commit in this repository. "
        f"Some that exist: {', '.join(known.split()) or 'none, the repository is empty'}."
    )


def is_shallow(source: RepositorySource) -> bool:
    """True where the history was cut off when the repository was cloned."""
    return bool(shallow_commits(source))


def shallow_commits(source: RepositorySource) -> bytes:
    """The commits at which the history was cut off, a line for each."""
    path = source.common_dir / "shallow"
    if not path.is_file():
        return b""
    said = path.read_text("ascii", "replace").split()
    return "".join(f"{sha}\n" for sha in said if _SHA.match(sha)).encode()


def borrows_objects(source: RepositorySource) -> bool:
    """True where the repository names object stores outside itself."""
    return (source.common_dir / "objects" / "info" / "alternates").exists()


def _link_objects(source: RepositorySource, git_dir: Path, *, follow_alternates: bool) -> None:
    theirs, ours = source.common_dir / "objects", git_dir / "objects"
    (ours / "info").mkdir(parents=True)
    if follow_alternates:
        (ours / "info" / "alternates").write_bytes(os.fsencode(theirs) + b"\n")
        return
    for entry in os.scandir(theirs):
        # Everything but objects/info, which could send git to places outside.
        if entry.name == "pack" or re.fullmatch("[0-9a-f]{2}", entry.name):
            (ours / entry.name).symlink_to(entry.path)


def _link_refs(source: RepositorySource, git_dir: Path) -> None:
    for name in ("refs", "packed-refs", "reftable"):
        theirs = source.common_dir / name
        if theirs.exists():
            (git_dir / name).symlink_to(theirs)
    with (source.git_dir / "HEAD").open("rb") as head:
        (git_dir / "HEAD").write_bytes(head.read(4096))
    shallow = shallow_commits(source)
    if shallow:
        (git_dir / "shallow").write_bytes(shallow)


def _write_config(
    source: RepositorySource, git_dir: Path, max_file_bytes: int, mailmap_commit: str | None
) -> None:
    config = source.common_dir / "config"
    head = b""
    if config.is_file():
        with config.open("rb") as file:
            head = file.read(1 << 16)
    object_format = "sha256" if _SHA256.search(head) else "sha1"
    (git_dir / "config").write_text(
        _CONFIG.format(
            null=os.devnull,
            max_file_bytes=max_file_bytes,
            object_format=object_format,
            ref_storage="\n\trefStorage = reftable" if (git_dir / "reftable").exists() else "",
            empty_tree=_EMPTY_TREE[object_format],
            mailmap=f"{mailmap_commit}:.mailmap" if mailmap_commit else "",
        )
    )
