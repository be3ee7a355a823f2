"""Resolves the repositories to read, the commits to read them up to, and the cut-off."""

import datetime as dt
import logging
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from the_block_llm.errors import RepositoryError, StorageError
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.os_errors import explain
from the_block_llm.pipelines.git_ingest.git.program import tools_digest
from the_block_llm.pipelines.git_ingest.git.refs import resolve_commit
from the_block_llm.pipelines.git_ingest.git.repository import RepositoryLocation, is_url, locate
from the_block_llm.pipelines.git_ingest.git.rev_list import list_commits
from the_block_llm.pipelines.git_ingest.git.sandbox import (
    RepositorySandbox,
    has_alternates,
    is_shallow,
    open_sandbox,
    shallow_commits,
)
from the_block_llm.pipelines.git_ingest.git.url_credentials import without_credentials
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.git_ingest.sharding.commit_order import CommitOrder
from the_block_llm.pipelines.git_ingest.sharding.commit_times import MAX_TIME_S
from the_block_llm.pipelines.git_ingest.sharding.fan_out import Failure, fan_out
from the_block_llm.pipelines.git_ingest.sharding.order_cache import (
    load_commit_order,
    store_commit_order,
)
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import (
    ShardCache,
    digest_of,
)
from the_block_llm.pipelines.git_ingest.sources.cutoff import CutoffSpec, cutoff_time
from the_block_llm.pipelines.git_ingest.sources.repository_list import expand_repositories

_log = logging.getLogger(__name__)
_MAX_LISTED_FAILURES: Final = 3
# Weights of jobs, in commits: cloning takes far longer than opening a local repository.
_CLONE_WEIGHT: Final = 2000
_LOCAL_WEIGHT: Final = 50


@dataclass(frozen=True)
class _PinnedRepository:
    """A repository and the commit to read it up to."""

    location: RepositoryLocation
    head: str
    times: npt.NDArray[np.int64]
    """Commit times, ascending; all that is held of the commits until the cut-off is known."""


def resolve_repositories(
    repository: str,
    repositories: str | Sequence[str],
    params: GitIngestParams,
    cutoff: CutoffSpec,
    execution: ExecutionParams,
) -> dict[str, Any]:
    """Find the repositories, pin the commits to read, and determine the cut-off.

    Args:
        repository: Path or URL, read if ``repositories`` is empty. An error in it is raised.
        repositories: Several repositories, read into the same tables; see
            :func:`~the_block_llm.pipelines.git_ingest.sources.repository_list.expand_repositories`.
            One that cannot be read is skipped with a reason, and tried again by the next run.
        params: Parameters of this pipeline.
        cutoff: See :func:`~the_block_llm.pipelines.git_ingest.sources.cutoff.cutoff_time`. A
            fraction applies to the commits of all repositories together.
        execution: Engine to run on.

    Returns:
        The entry of the first repository; under ``repositories`` the entries of all, under
        ``failed`` the skipped ones with reasons, under ``pinned_at`` the time.

    Raises:
        RepositoryError: No repository can be read.
        ParameterError: The cut-off or the list of repositories is invalid.
    """
    sources = expand_repositories(repositories)
    order: CommitOrder | None = None
    if sources:
        pinned, failed = _pin_all(sources, params, execution)
    else:
        single, order = _pin(repository, params)
        pinned, failed = [single], []
    times = np.sort(np.concatenate([pin.times for pin in pinned]))
    train_until = cutoff_time(array("q", times.tobytes()), cutoff)
    del times
    n_train = [int(np.searchsorted(pin.times, train_until, side="right")) for pin in pinned]
    if order is not None:
        shas: Iterator[Any] = iter([order.sha(n_train[0] - 1)])
    else:
        shas = fan_out(
            [
                (_sha_at, (pin.location, pin.head, params, n - 1))
                for pin, n in zip(pinned, n_train, strict=True)
                if n
            ],
            params.n_workers,
            execution,
            "Finding the cut-off",
        )
    entries = []
    for pin, name, n in zip(pinned, _unique_names(pinned), n_train, strict=True):
        # A repository that starts after the cut-off has no snapshot to train on.
        sha = next(shas) if n else None
        if isinstance(sha, Failure):
            failed.append({"source": pin.location.source, "reason": sha.reason})
        else:
            entries.append(_entry(pin, name, params.ref, sha, cutoff, train_until))
    if not entries:
        raise RepositoryError(_all_failed_message(failed))
    # Tells the tables of this run from those of another (datasets/cutoff.py).
    pinned_at = dt.datetime.now(dt.UTC).isoformat()
    return {**entries[0], "repositories": entries, "failed": failed, "pinned_at": pinned_at}


@contextmanager
def open_repository(
    info: Mapping[str, Any], params: GitIngestParams
) -> Iterator[RepositorySandbox]:
    """Open a repository for reading.

    Args:
        info: Entry of :func:`resolve_repositories`.
        params: Parameters of this pipeline.
    """
    location = RepositoryLocation(
        info["source"], info["name"], Path(info["git_dir"]), Path(info["common_dir"])
    )
    with _sandbox_of(location, params, info["head"]) as sandbox:
        yield sandbox


def read_commit_order(
    sandbox: RepositorySandbox, info: Mapping[str, Any], params: GitIngestParams
) -> CommitOrder:
    """Return the ordered commits of an open repository."""
    return _read_commit_order(sandbox, info["key"], info["head"], params)


def cache_folder(key: str, params: GitIngestParams, kind: str) -> Path:
    """Return the folder for one kind of cached shards of a repository, creating it if needed."""
    folder = Path(params.cache_folder).absolute() / key / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot write to {folder}: "
            f"{explain(error, 'set git_ingest.cache_folder to another folder')}"
        ) from error
    return folder


def _sandbox_of(
    location: RepositoryLocation, params: GitIngestParams, head: str | None = None
) -> AbstractContextManager[RepositorySandbox]:
    return open_sandbox(
        location,
        Path(params.cache_folder).absolute(),
        max_file_bytes=params.max_file_bytes,
        follow_alternates=params.follow_alternates,
        mailmap_commit=head,
    )


def _read_commit_order(
    sandbox: RepositorySandbox, key: str, head: str, params: GitIngestParams
) -> CommitOrder:
    if params.all_branches:
        return list_commits(sandbox, head, all_branches=True, since=params.since)
    # Cached: every node needs it, and git takes a second to walk 100,000 commits.
    shallow = sandbox.git_dir / "shallow"
    boundary = shallow.read_bytes() if shallow.exists() else b""
    cache, name = _order_cache(key, head, params, boundary)
    order = load_commit_order(cache, name)
    if order is None:
        order = list_commits(sandbox, head, all_branches=False, since=params.since)
        store_commit_order(cache, name, order)
    return order


def _order_cache(
    key: str, head: str, params: GitIngestParams, shallow_boundary: bytes
) -> tuple[ShardCache, str]:
    cache = ShardCache(cache_folder(key, params, "order"))
    reading = (params.since, params.follow_alternates, shallow_boundary)
    return cache, digest_of(tools_digest(), head, reading)


def _pin_all(
    sources: Sequence[str], params: GitIngestParams, execution: ExecutionParams
) -> tuple[list[_PinnedRepository], list[dict[str, str]]]:
    results = fan_out(
        [(_pin_without_order, (source, params)) for source in sources],
        params.n_workers,
        execution,
        "Finding repositories",
        [_CLONE_WEIGHT if is_url(source) else _LOCAL_WEIGHT for source in sources],
    )
    pinned: list[_PinnedRepository] = []
    failed: list[dict[str, str]] = []
    seen: dict[Path, str] = {}
    shown = map(without_credentials, sources)
    for source, result in zip(shown, results, strict=True):
        if isinstance(result, Failure):
            failed.append({"source": without_credentials(source), "reason": result.reason})
        elif (folder := result.location.common_dir) in seen:
            reason = f"It is the same repository as {seen[folder]}, which is read."
            failed.append({"source": result.location.source, "reason": reason})
        else:
            seen[folder] = result.location.source
            pinned.append(result)
    for skipped in failed:
        _log.warning(
            "Skipped: %s. %s", skipped["source"], skipped["reason"], extra={"markup": False}
        )
    if not pinned:
        raise RepositoryError(_all_failed_message(failed))
    return pinned, failed


def _pin(source: str, params: GitIngestParams) -> tuple[_PinnedRepository, CommitOrder]:
    location = locate(source, Path(params.clone_folder))
    with _sandbox_of(location, params) as sandbox:
        head = resolve_commit(sandbox, params.ref)
        order = _read_commit_order(sandbox, location.key, head, params)
    return _PinnedRepository(location, head, np.frombuffer(order.times, np.int64)), order


def _pin_without_order(source: str, params: GitIngestParams) -> _PinnedRepository:
    return _pin(source, params)[0]


def _sha_at(location: RepositoryLocation, head: str, params: GitIngestParams, index: int) -> str:
    if not params.all_branches:
        # Pinning has just cached the order: no need to open the repository again.
        order = load_commit_order(
            *_order_cache(location.key, head, params, shallow_commits(location))
        )
        if order is not None:
            return order.sha(index)
    with _sandbox_of(location, params) as sandbox:
        return _read_commit_order(sandbox, location.key, head, params).sha(index)


def _all_failed_message(failed: Sequence[Mapping[str, str]]) -> str:
    listed = " ".join(f"{one['source']}: {one['reason']}" for one in failed[:_MAX_LISTED_FAILURES])
    n_more = len(failed) - _MAX_LISTED_FAILURES
    return f"None of the {len(failed)} repositories can be read. {listed}" + (
        f" And {n_more} more." if n_more > 0 else ""
    )


def _entry(
    pinned: _PinnedRepository,
    name: str,
    ref: str,
    cutoff_sha: str | None,
    cutoff: CutoffSpec,
    train_until: int,
) -> dict[str, Any]:
    location = pinned.location
    return {
        "source": location.source,
        "name": name,
        "key": location.key,
        "git_dir": str(location.git_dir),
        "common_dir": str(location.common_dir),
        "ref": ref,
        "head": pinned.head,
        "n_commits": len(pinned.times),
        "shallow": is_shallow(location),
        "borrows_objects": has_alternates(location),
        "cutoff": {
            "spec": cutoff if isinstance(cutoff, int | float | None) else str(cutoff),
            "sha": pinned.head if cutoff is None else cutoff_sha,
            "time": dt.datetime.fromtimestamp(min(train_until, MAX_TIME_S), dt.UTC).isoformat(),
        },
    }


def _unique_names(pinned: Sequence[_PinnedRepository]) -> list[str]:
    """Return names for the column ``repo``; repositories of the same name get a suffix."""
    locations = [pin.location for pin in pinned]
    n_named = Counter(location.name for location in locations)
    return [
        location.name if n_named[location.name] == 1 else f"{location.name}-{location.key[:6]}"
        for location in locations
    ]
