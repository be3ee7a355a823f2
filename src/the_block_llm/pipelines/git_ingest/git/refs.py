"""Resolves refs to commits, and says what is the matter with a repository where that fails."""

import logging
import os
import re
from pathlib import Path
from typing import Final

from the_block_llm.errors import RepositoryError, did_you_mean
from the_block_llm.os_errors import explain, path_of
from the_block_llm.pipelines.git_ingest.git.repository import RepositoryLocation
from the_block_llm.pipelines.git_ingest.git.sandbox import (
    GitProcessError,
    RepositorySandbox,
    is_head_damaged,
    is_shallow,
    read_head,
)

_log = logging.getLogger(__name__)
_MAX_LISTED_REFS: Final = 8
_MAX_REF_BYTES: Final = 4096
_REF_CONTENT: Final = re.compile(rb"(?:ref: refs/\S|[0-9a-f]{40})")
_SHA: Final = re.compile(r"\b[0-9a-f]{40}(?:[0-9a-f]{24})?\b")
_LOOSE_PATH: Final = re.compile(r"objects/([0-9a-f]{2})/([0-9a-f]{38}(?:[0-9a-f]{24})?)\b")
_REPAIR: Final = (
    "`git fsck` lists what is missing or damaged; `git fetch` or a copy of the objects from "
    "another clone restores it; or clone the repository again."
)


def resolve_commit(sandbox: RepositorySandbox, ref: str) -> str:
    """Return the sha of the commit that ``ref`` names.

    Raises:
        RepositoryError: ``ref`` does not name a commit, or the commit cannot be read; the message
            says which, and what helps.
    """
    if ref.startswith("-"):
        raise RepositoryError(
            f"git_ingest.ref={ref!r} starts with '-', which git would parse as an option. Pass a "
            "branch, a tag or a commit."
        )
    if not ref.isprintable() or len(ref) > _MAX_REF_BYTES:
        raise RepositoryError(
            f"git_ingest.ref={ref[:80]!r} is no name of a ref: it holds control characters or is "
            f"longer than {_MAX_REF_BYTES:,} characters. Pass a branch, a tag or a commit."
        )
    try:
        output = sandbox.check_output("rev-parse", "--verify", f"{ref}^{{commit}}")
        if ref != "HEAD":
            _warn_if_ambiguous(sandbox, ref)
        return output.decode().strip()
    except GitProcessError as error:
        try:
            found = _unresolved(sandbox, ref, error.stderr)
        except OSError as unreadable:
            found = _no_access(sandbox, unreadable)
        raise found from error


def _warn_if_ambiguous(sandbox: RepositorySandbox, ref: str) -> None:
    names = sandbox.check_output(
        "for-each-ref", "--format=%(refname)", f"refs/heads/{ref}", f"refs/tags/{ref}"
    ).splitlines()
    if {f"refs/heads/{ref}".encode(), f"refs/tags/{ref}".encode()} <= set(names):
        _log.warning(
            "git_ingest.ref=%s is a tag and a branch. The tag is read, as by git; heads/%s is the "
            "branch.", ref, ref,
            extra={"markup": False},
        )  # fmt: skip


def history_error(sandbox: RepositorySandbox, head: str) -> RepositoryError:
    """Return the error that names why the history of ``head`` cannot be listed."""
    try:
        return _history_error(sandbox, head)
    except OSError as unreadable:
        return _no_access(sandbox, unreadable)


def _no_access(sandbox: RepositorySandbox, error: OSError) -> RepositoryError:
    path = path_of(error) or sandbox.location.common_dir
    return RepositoryError(f"{path} cannot be read: {explain(error)}")


def _history_error(sandbox: RepositorySandbox, head: str) -> RepositoryError:
    try:
        sandbox.check_output("rev-list", "--count", head)
    except GitProcessError as error:
        shas = [sha for sha in _shas_in(error.stderr) if not _is_readable(sandbox, sha)]
        if shas:
            what = f"the commit {shas[0]} of its history"
            return _unreadable_object(sandbox, shas[0], what, error.stderr)
        said = error.stderr.splitlines()[-1] if error.stderr else str(error)
    else:
        said = "git rev-list failed"
    return RepositoryError(
        "Commits of the repository's own history are missing, so it cannot be ordered "
        f"({said}). Repair it: {_REPAIR}"
    )


def _unresolved(sandbox: RepositorySandbox, ref: str, stderr: str) -> RepositoryError:
    location = sandbox.location
    if "packed-refs" in stderr:
        return RepositoryError(
            f"{location.common_dir / 'packed-refs'} is damaged, so that git reads no ref "
            f"({stderr.splitlines()[-1]}). Restore it from another clone, or delete it and run "
            "`git fetch`."
        )
    if "ambiguous" in stderr and re.fullmatch("[0-9a-f]{4,39}", ref):
        return RepositoryError(
            f"git_ingest.ref={ref!r} is the beginning of several objects. Pass more of its digits."
        )
    sha = _verify(sandbox, ref)
    if sha is not None:
        return _no_commit(sandbox, ref, sha, stderr)
    if ref == "HEAD":
        return _unresolved_head(sandbox)
    if "@{" in ref and "}" in ref:
        return RepositoryError(
            f"git_ingest.ref={ref!r} asks the reflog or the upstream branch, which are not read. "
            f"Pass the commit that `git rev-parse {ref}` prints."
        )
    for name in (ref, f"refs/{ref}", f"refs/heads/{ref}", f"refs/tags/{ref}"):
        if name.startswith("refs/") and (damaged := _damaged_ref(location, name)) is not None:
            return damaged
    names = _ref_names(sandbox)
    examples = ", ".join(names[:_MAX_LISTED_REFS]) or "none, the repository has no branch or tag"
    return RepositoryError(
        f"git_ingest.ref={ref!r} names no commit in this repository.{did_you_mean(ref, names)} "
        f"Existing refs: {examples}."
    )


def _unresolved_head(sandbox: RepositorySandbox) -> RepositoryError:
    location = sandbox.location
    head = location.git_dir / "HEAD"
    names = _ref_names(sandbox)
    set_ref = (
        f"Existing: {', '.join(names[:_MAX_LISTED_REFS])}. Set git_ingest.ref={names[0]}"
        if names
        else "It has no branch or tag either"
    )
    if is_head_damaged(location):
        return RepositoryError(
            f"{head} is empty or damaged, as after a crash: it names neither a branch nor a "
            f"commit. {set_ref}, or repair it with `git symbolic-ref HEAD refs/heads/NAME`."
        )
    target = os.fsdecode(read_head(location).partition(b"ref:")[2].strip())
    if target and (damaged := _damaged_ref(location, target)) is not None:
        return damaged
    if names:
        branch = target.removeprefix("refs/heads/") or "a ref"
        return RepositoryError(
            f"HEAD of the repository names the branch {branch}, which does not exist. {set_ref}, "
            "or switch to one of them in the repository."
        )
    if _has_objects(location):
        return RepositoryError(
            "The repository has no branch or tag, but it has objects: its refs are lost, or "
            "nothing was committed yet. Commit something first; `git fsck --lost-found` lists "
            "commits that no ref names, and git_ingest.ref takes one of them."
        )
    return RepositoryError(
        "The repository is empty: it has no commit. Commit something first, or run `git fetch`."
    )


def _no_commit(sandbox: RepositorySandbox, ref: str, sha: str, stderr: str) -> RepositoryError:
    """Return the error for a ref that names an object which is not a readable commit."""
    try:
        kind = sandbox.check_output("cat-file", "-t", sha).decode().strip()
    except GitProcessError as error:
        what = f"the commit {sha}" + ("" if sha == ref else f" that {ref} names")
        return _unreadable_object(sandbox, sha, what, f"{stderr}\n{error.stderr}")
    if kind in {"tree", "blob"}:
        return RepositoryError(
            f"git_ingest.ref={ref!r} names a {kind}, not a commit. Pass a branch, a tag of a "
            "commit, or a commit."
        )
    behind = [other for other in _shas_in(stderr) if other != sha]
    if kind == "tag":
        content = sandbox.check_output("cat-file", "tag", sha).decode("utf-8", "replace")
        behind += _shas_in(content.partition("\n")[0])
        if "\ntype commit\n" not in content and "\ntype tag\n" not in content:
            return RepositoryError(
                f"git_ingest.ref={ref!r} is a tag of something other than a commit. Pass a "
                "branch, a tag of a commit, or a commit."
            )
    unreadable = [other for other in behind if not _is_readable(sandbox, other)] or [sha]
    what = f"the commit {unreadable[0]} that {ref} names"
    return _unreadable_object(sandbox, unreadable[0], what, stderr)


def _unreadable_object(
    sandbox: RepositorySandbox, sha: str, what: str, stderr: str
) -> RepositoryError:
    """Return the error that names why an object that should be there cannot be read."""
    location = sandbox.location
    objects = location.common_dir / "objects"
    loose = objects / sha[:2] / sha[2:]
    if loose.is_file():
        state = "an empty file, as after a crash or on a full disk"
        if loose.stat().st_size:
            state = "a damaged file"
        return RepositoryError(
            f"git cannot read {what}: {loose} is {state}. Delete that file; then {_REPAIR}"
        )
    if damage := _pack_damage(objects / "pack", stderr):
        return RepositoryError(f"git cannot read {what}: {damage} Otherwise {_REPAIR}")
    alternates = _alternates(objects)
    if alternates and not sandbox.follows_alternates:
        listed = ", ".join(map(str, alternates[:2]))
        gone = [str(path) for path in alternates if not path.is_dir()]
        if gone:
            return RepositoryError(
                f"git cannot read {what}: the repository borrows objects from {gone[0]} "
                "(objects/info/alternates), which does not exist any more. Restore it, or clone "
                "the repository again without --shared and --reference."
            )
        return RepositoryError(
            f"git cannot read {what}: the repository borrows objects from {listed} "
            "(objects/info/alternates), and what lies outside a repository is not read. Make it "
            "whole with `git repack -a -d` in it, or set git_ingest.follow_alternates=true if you "
            "trust it."
        )
    for path in alternates:
        if not path.is_dir():
            return RepositoryError(
                f"git cannot read {what}: the repository borrows objects from {path} "
                "(objects/info/alternates), which does not exist. Restore it, or clone the "
                "repository again without --shared and --reference."
            )
    if is_shallow(location):
        return RepositoryError(
            f"git cannot read {what}: the clone is shallow, and it is not among the commits that "
            "were fetched. `git fetch --unshallow` fetches the rest."
        )
    if any((objects / "pack").glob("*.promisor")):
        return RepositoryError(
            f"git cannot read {what}: the clone is partial, and it is not among the objects that "
            "were fetched. `git fetch --refetch` without a filter fetches the rest."
        )
    return RepositoryError(
        f"git cannot read {what}: the object is missing from the repository. {_REPAIR[0].upper()}"
        f"{_REPAIR[1:]}"
    )


def _pack_damage(folder: Path, stderr: str) -> str | None:
    """Return what is wrong with the packs, with the remedy; None if nothing is known to be."""
    for pack in sorted(folder.glob("*.pack")):
        index = pack.with_suffix(".idx")
        if not index.exists():
            return f"the pack {pack} has no index. `git index-pack {pack}` writes it."
        if not index.stat().st_size or index.name in stderr:
            return f"the index {index} is damaged. Delete it; `git index-pack {pack}` writes it."
        if not pack.stat().st_size or pack.name in stderr:
            return f"the pack {pack} is damaged. Delete it with its index; then fetch again."
    for index in sorted(folder.glob("*.idx")):
        if not index.with_suffix(".pack").exists():
            return f"the pack of {index} is missing. Restore it from another clone."
    if "multi-pack-index" in stderr:
        return f"{folder / 'multi-pack-index'} is damaged. Delete it; git needs it for speed only."
    return None


def _damaged_ref(location: RepositoryLocation, name: str) -> RepositoryError | None:
    """Return the error for a ref whose file names nothing; None if there is no such file."""
    path = location.common_dir / name
    if ".." in Path(name).parts or not path.is_file():
        return None
    with path.open("rb") as file:
        if _REF_CONTENT.match(file.read(_MAX_REF_BYTES)):
            return None
    return RepositoryError(
        f"The ref {name} is damaged, as after a crash: {path} is empty or holds no commit. "
        f"`git reflog {name}` may know its last commit, and `git update-ref {name} COMMIT` sets "
        "it; or set git_ingest.ref to another branch, tag or commit."
    )


def _verify(sandbox: RepositorySandbox, ref: str) -> str | None:
    try:
        output = sandbox.check_output("rev-parse", "--verify", "--quiet", ref).decode().strip()
    except GitProcessError:
        return None
    return output if _SHA.fullmatch(output) else None


def _is_readable(sandbox: RepositorySandbox, sha: str) -> bool:
    try:
        sandbox.check_output("cat-file", "-p", sha)  # -e finds an empty file as well
    except GitProcessError:
        return False
    return True


def _ref_names(sandbox: RepositorySandbox) -> list[str]:
    try:
        output = sandbox.check_output(
            "for-each-ref", "--format=%(refname:short)", "--count=200",
            "refs/heads", "refs/tags", "refs/remotes",
        )  # fmt: skip
    except GitProcessError:
        return []
    return output.decode("utf-8", "replace").split()


def _shas_in(text: str) -> list[str]:
    return [*_SHA.findall(text), *(first + rest for first, rest in _LOOSE_PATH.findall(text))]


def _has_objects(location: RepositoryLocation) -> bool:
    objects = location.common_dir / "objects"
    return any(objects.glob("pack/*.pack")) or any(objects.glob("[0-9a-f][0-9a-f]/*"))


def _alternates(objects: Path) -> list[Path]:
    path = objects / "info" / "alternates"
    if not path.is_file():
        return []
    lines = os.fsdecode(path.read_bytes()).splitlines()
    return [objects / line for line in map(str.strip, lines) if line and not line.startswith("#")]
