"""A sandboxed git directory for reading an untrusted repository.

No git command runs with the repository's own configuration. The sandbox has a configuration
written here; its objects and refs are symbolic links into the repository. git therefore ignores
the repository's filters, hooks, external diffs, pagers, attributes, replace refs, promisor remotes
and alternates, and never writes to the repository.
"""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from the_block_llm.errors import RepositoryError, StorageError
from the_block_llm.locks.leases import leased_temporary_folder
from the_block_llm.os_errors import explain, path_of
from the_block_llm.pipelines.git_ingest.git.program import (
    REFTABLE_GIT_VERSION,
    parse_version,
    require_git,
    sandbox_environment,
)
from the_block_llm.pipelines.git_ingest.git.repository import RepositoryLocation

_SANDBOXES: Final = ".sandboxes"  # apart from the many folders of repositories
# git loads an added or deleted file completely, whatever its size, before it reports "binary".
_MIN_ALLOCATION_LIMIT_BYTES: Final = 128 << 20
# Paths in a git directory that are read.
_READ_PATHS: Final = ("objects", "refs", "reftable", "packed-refs", "shallow", "config")
_SHA256: Final = re.compile(rb"objectformat\s*=\s*sha256", re.IGNORECASE)
_HEAD: Final = re.compile(rb"ref:\s*refs/\S|[0-9a-f]{40}")
# Those that decide how objects and refs are stored, and those that do not concern a reader.
_KNOWN_EXTENSIONS: Final = frozenset({
    "objectformat", "refstorage", "compatobjectformat", "noop", "noop-v1", "preciousobjects",
    "partialclone", "worktreeconfig", "relativeworktrees",
})  # fmt: skip
_SHA: Final = re.compile(r"^[0-9a-f]{40}(?:[0-9a-f]{24})?$")
_EMPTY_TREE: Final = {
    "sha1": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "sha256": "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}
# Small windows keep resident memory constant for packs of any size and cost under 2 % of time.
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
class RepositorySandbox:
    """Runs git on a repository through a sandboxed git directory. Cheap to pickle."""

    git_dir: Path
    max_file_bytes: int
    location: RepositoryLocation
    follows_alternates: bool

    @property
    def reading(self) -> tuple[int, bool]:
        """What decides whether and how an object is read; part of the name of cached shards."""
        return self.max_file_bytes, self.follows_alternates

    @property
    def _max_allocation_bytes(self) -> int:
        return max(_MIN_ALLOCATION_LIMIT_BYTES, 4 * self.max_file_bytes)

    def start(
        self, *arguments: str | bytes, stdin: int | IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start git with its standard output in a pipe and ``stdin`` as in ``Popen``."""
        return subprocess.Popen(
            ["git", *arguments],
            env=sandbox_environment(self.git_dir, self._max_allocation_bytes),
            cwd=self.git_dir,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    def check_output(self, *arguments: str | bytes, stdin: bytes = b"") -> bytes:
        """Run git and return its standard output.

        Raises:
            GitProcessError: git exited with a code other than 0.
        """
        completed = subprocess.run(
            ["git", *arguments],
            env=sandbox_environment(self.git_dir, self._max_allocation_bytes),
            cwd=self.git_dir,
            input=stdin,
            capture_output=True,
            check=False,
        )
        if completed.returncode != 0:
            raise GitProcessError(
                f"git {os.fsdecode(arguments[0])} exited with code {completed.returncode}",
                completed.stderr.decode("utf-8", "replace").strip(),
            )
        return completed.stdout

    def iter_records(
        self, *arguments: str, separator: bytes = b"\n", stdin: IO[bytes] | None = None
    ) -> Iterator[bytes]:
        """Yield the records that git prints, without their separator.

        Args:
            arguments: Command and options of git.
            separator: Ends each record.
            stdin: File to connect to git's standard input.

        Raises:
            GitProcessError: git exited with a code other than 0.
        """
        process = self.start(*arguments, stdin=stdin)
        assert process.stdout is not None  # noqa: S101
        try:
            rest = b""
            while block := process.stdout.read(1 << 16):
                *records, rest = (rest + block).split(separator)
                yield from records
            if process.wait() != 0:
                raise GitProcessError(f"git {arguments[0]} exited with code {process.returncode}")
            if rest:
                yield rest
        finally:
            process.stdout.close()
            process.kill()
            process.wait()

    def object_sizes(self, shas: Iterable[str]) -> dict[str, int]:
        """Return the size in bytes of each readable object; missing ones are left out."""
        request = "".join(f"{sha}\n" for sha in shas).encode()
        if not request:
            return {}
        output = self.check_output(
            "cat-file", "--batch-check=%(objectname) %(objectsize)", "--buffer", stdin=request
        )
        fields = (line.split(b" ") for line in output.splitlines())
        return {sha.decode(): int(size) for sha, size in fields if size.isdigit()}


class GitProcessError(RepositoryError):
    """git failed or its output ended early: an object is missing, damaged or too large."""

    def __init__(self, message: str, stderr: str = "") -> None:
        """Initialize the error.

        Args:
            message: What happened.
            stderr: What git printed.
        """
        said = f": {stderr}" if stderr else ""
        super().__init__(
            f"{message}{said}. Repair the repository (`git fsck` lists the damage) or clone it "
            "again."
        )
        self.stderr = stderr


@contextmanager
def open_sandbox(
    location: RepositoryLocation,
    cache_folder: Path,
    *,
    max_file_bytes: int,
    follow_alternates: bool,
    mailmap_commit: str | None = None,
) -> Iterator[RepositorySandbox]:
    """Open a repository for reading; the sandbox is removed when the context exits.

    Args:
        location: The repository.
        cache_folder: Parent folder of the sandbox.
        max_file_bytes: git treats larger files as binary and never loads them completely.
        follow_alternates: Also read alternate object stores and the targets of symbolic links
            in the git directory.
        mailmap_commit: Commit whose tree holds the ``.mailmap`` to apply.

    Raises:
        RepositoryError: A symbolic link leads out of the repository and must not be followed, the
            repository cannot be read, or its format is not supported.
        StorageError: The cache folder is not writable.
    """
    if not follow_alternates:
        refuse_external_symlinks(location)
    with contextlib.ExitStack() as stack:
        try:
            parent = cache_folder.absolute() / _SANDBOXES
            git_dir = stack.enter_context(leased_temporary_folder(parent, "sandbox"))
        except OSError as error:
            raise _not_writable(cache_folder, error) from error
        try:
            _link_objects(location, git_dir, follow_alternates=follow_alternates)
            _link_refs(location, git_dir)
            _write_config(location, git_dir, max_file_bytes, mailmap_commit)
        except OSError as error:
            path = path_of(error)
            if path is None or Path(path).is_relative_to(git_dir):
                raise _not_writable(cache_folder, error) from error
            raise RepositoryError(f"{path} cannot be read: {explain(error)}") from error
        yield RepositorySandbox(git_dir, max_file_bytes, location, follow_alternates)


def _not_writable(cache_folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"Cannot write to {cache_folder}: "
        f"{explain(error, 'set git_ingest.cache_folder to another folder')}"
    )


def refuse_external_symlinks(location: RepositoryLocation) -> None:
    """Check that everything read from a repository is inside its own directories.

    git would follow a symbolic link in the git directory and read its target, and wait for a pipe.

    Raises:
        RepositoryError: A symbolic link leads outside, or something is neither file nor folder.
    """
    allowed = (location.common_dir.resolve(), location.git_dir.resolve())
    roots = [location.git_dir / "HEAD", *(location.common_dir / name for name in _READ_PATHS)]
    for link in (link for root in roots for link in _find_special_files(root)):
        if not os.path.islink(link):  # noqa: PTH114  # a string, of many
            raise RepositoryError(
                f"{link} is a pipe, a socket or a device, which git would wait for. Remove it."
            )
        target = Path(os.path.realpath(link))
        if not any(target.is_relative_to(folder) for folder in allowed):
            raise RepositoryError(
                f"{link} is a symbolic link to {target}, outside the repository, and is not "
                "followed. Pass the repository that it points to, or set "
                "git_ingest.follow_alternates=true if you trust this one."
            )


def _find_special_files(root: Path) -> Iterator[str]:
    """Yield whatever is neither file nor folder at and below ``root``, without following links."""
    if root.is_symlink() or (root.exists() and not root.is_file() and not root.is_dir()):
        yield str(root)
    elif root.is_dir():
        folders = [str(root)]
        while folders:
            # A directory that cannot be listed here cannot be read by git either.
            with contextlib.suppress(PermissionError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif not entry.is_file(follow_symlinks=False):
                        yield entry.path


def mailmap_id(sandbox: RepositorySandbox, commit: str) -> str | None:
    """Return the blob of the ``.mailmap`` in the tree of ``commit``, None if none can be read."""
    try:
        output = sandbox.check_output("rev-parse", "--verify", "--quiet", f"{commit}:.mailmap")
    except GitProcessError:
        return None
    blob = output.decode().strip()
    return blob if sandbox.object_sizes([blob]) else None


def is_shallow(location: RepositoryLocation) -> bool:
    """Return whether the repository is a shallow clone."""
    return bool(shallow_commits(location))


def shallow_commits(location: RepositoryLocation) -> bytes:
    """Return the commits at which a shallow history ends, one sha per line."""
    path = location.common_dir / "shallow"
    if not path.is_file():
        return b""
    shas = path.read_text("ascii", "replace").split()
    return "".join(f"{sha}\n" for sha in shas if _SHA.match(sha)).encode()


def read_head(location: RepositoryLocation) -> bytes:
    """Return what the file HEAD says."""
    with (location.git_dir / "HEAD").open("rb") as head:
        return head.read(4096)


def is_head_damaged(location: RepositoryLocation) -> bool:
    """Return whether HEAD names neither a ref nor a commit, as after a crash."""
    return _HEAD.match(read_head(location)) is None


def has_alternates(location: RepositoryLocation) -> bool:
    """Return whether the repository names alternate object stores."""
    return (location.common_dir / "objects" / "info" / "alternates").exists()


def _link_objects(location: RepositoryLocation, git_dir: Path, *, follow_alternates: bool) -> None:
    source, target = location.common_dir / "objects", git_dir / "objects"
    (target / "info").mkdir(parents=True)
    if follow_alternates:
        (target / "info" / "alternates").write_bytes(os.fsencode(source) + b"\n")
        return
    for entry in os.scandir(source):
        # Not objects/info: its alternates could lead git outside the repository.
        if entry.name == "pack" or re.fullmatch("[0-9a-f]{2}", entry.name):
            (target / entry.name).symlink_to(entry.path)


def _link_refs(location: RepositoryLocation, git_dir: Path) -> None:
    for name in ("refs", "packed-refs", "reftable"):
        source = location.common_dir / name
        if source.exists():
            (git_dir / name).symlink_to(source)
    head = read_head(location)
    # Without a HEAD that it can read, git reads no other ref either.
    (git_dir / "HEAD").write_bytes(head if _HEAD.match(head) else b"ref: refs/heads/.invalid\n")
    shallow = shallow_commits(location)
    if shallow:
        (git_dir / "shallow").write_bytes(shallow)


def _write_config(
    location: RepositoryLocation, git_dir: Path, max_file_bytes: int, mailmap_commit: str | None
) -> None:
    object_format, ref_storage = _storage_formats(location, git_dir)
    (git_dir / "config").write_text(
        _CONFIG.format(
            null=os.devnull,
            max_file_bytes=max_file_bytes,
            object_format=object_format,
            ref_storage="\n\trefStorage = reftable" if ref_storage == "reftable" else "",
            empty_tree=_EMPTY_TREE[object_format],
            mailmap=f"{mailmap_commit}:.mailmap" if mailmap_commit else "",
        )
    )


def _storage_formats(location: RepositoryLocation, git_dir: Path) -> tuple[str, str]:
    """Return how the repository stores objects and refs: ``sha1`` and ``files``, as a rule.

    Raises:
        RepositoryError: It uses a format that git or this program does not know.
    """
    config = location.common_dir / "config"
    head = b""
    if config.is_file():
        with config.open("rb") as file:
            head = file.read(1 << 20)
    has_reftable = (location.common_dir / "reftable").exists()
    formats = {
        "objectformat": "sha256" if _SHA256.search(head) else "sha1",
        "refstorage": "reftable" if has_reftable else "files",
    }
    if b"extensions" in head.lower():
        formats |= _read_extensions(location, head, git_dir)
    if formats["refstorage"] == "reftable" and parse_version(require_git()) < REFTABLE_GIT_VERSION:
        raise RepositoryError(
            f"{location.common_dir} stores its refs in a reftable, which git "
            f"{'.'.join(map(str, REFTABLE_GIT_VERSION))} or newer reads; this is git "
            f"{require_git()}. Install a newer git, or convert the repository with one: "
            "git refs migrate --ref-format=files."
        )
    return formats["objectformat"], formats["refstorage"]


def _read_extensions(location: RepositoryLocation, config: bytes, git_dir: Path) -> dict[str, str]:
    """Return the extensions of the repository's format by name, in lower case."""
    completed = subprocess.run(
        ["git", "config", "--file", "-", "--no-includes", "--list", "-z"],
        env=sandbox_environment(git_dir, _MIN_ALLOCATION_LIMIT_BYTES),
        cwd=git_dir,
        input=config,
        capture_output=True,
        check=False,
    )
    if completed.returncode != 0:  # a damaged configuration; objects and refs may be whole
        return {}
    values = dict(
        entry.partition("\n")[::2]
        for entry in completed.stdout.decode("utf-8", "replace").split("\0")
        if entry
    )
    extensions = {
        key.partition(".")[2]: value.lower()
        for key, value in values.items()
        if key.startswith("extensions.")
    }
    # As git does: version 0 knows no extensions but a few harmless ones.
    unknown = sorted(extensions.keys() - _KNOWN_EXTENSIONS)
    if unknown and values.get("core.repositoryformatversion", "0").strip() not in {"", "0"}:
        raise RepositoryError(
            f"{location.common_dir} uses the extension {unknown[0]!r} of git's repository format, "
            "which this program does not know. Clone it with the git that made it, to another "
            "folder, and pass that; or upgrade this program."
        )
    for key, known in (("objectformat", {"sha1", "sha256"}), ("refstorage", {"files", "reftable"})):
        if extensions.get(key, min(known)) not in known:
            raise RepositoryError(
                f"{location.common_dir} has extensions.{key}={extensions[key]}, which this program "
                f"does not know (it knows {' and '.join(sorted(known))}). Clone it with the git "
                "that made it, to another folder, and pass that; or upgrade this program."
            )
    return extensions
