"""Which repositories are read, up to which commit, and where training ends."""

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

from the_block_llm.errors import RepositoryError
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.pipelines.git_ingest.git.repository import RepositorySource, is_url, locate
from the_block_llm.pipelines.git_ingest.git.rev_list import (
    CommitOrder,
    Cutoff,
    cutoff_time,
    list_commits,
    remember_order,
    remembered_order,
)
from the_block_llm.pipelines.git_ingest.git.sandbox import (
    PrivateView,
    borrows_objects,
    is_shallow,
    private_view,
    resolve_commit,
    shallow_commits,
)
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.git_ingest.sharding.fan_out import Failed, one_by_one
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import (
    PieceCache,
    code_digest,
    digest_of,
)
from the_block_llm.pipelines.git_ingest.sources.repository_list import listed

_log = logging.getLogger(__name__)
_NAMED_FAILURES: Final = 3
_COMMITS_A_CLONE: Final = 2000
_COMMITS_A_LOOK: Final = 50


@dataclass(frozen=True)
class _Pinned:
    """A repository, and the commit up to which it is read."""

    source: RepositorySource
    head: str
    times: npt.NDArray[np.int64]
    """Of all commits, ascending: all that is kept of them until the cut-off is known."""


def describe_repositories(
    repository: str,
    repositories: str | Sequence[str],
    params: GitIngestParams,
    cutoff: Cutoff,
    execution: ExecutionParams,
) -> dict[str, Any]:
    """Find the repositories, pin the commits to read, and settle the cut-off.

    Args:
        repository: Path or URL; read where ``repositories`` is empty. What is wrong with it is
            an error, since nothing else would be left.
        repositories: Several, read into the same tables; see
            ``repository_list.listed``. One that cannot be read
            is left out, with the reason, and tried again by the next run.
        params: Of this pipeline.
        cutoff: See :func:`~the_block_llm.pipelines.git_ingest.git.rev_list.cutoff_time`. A
            fraction counts the commits of all repositories together.
        execution: Where the work is done.

    Returns:
        The facts of the first repository; under ``repositories`` those of each, under
        ``failed`` what was left out and why.

    Raises:
        RepositoryError: None can be found and read.
        ParameterError: The cut-off or the list of repositories is not understood.
    """
    given = listed(repositories)
    order: CommitOrder | None = None
    if given:
        pinned, failed = _pin_all(given, params, execution)
    else:
        alone, order = _pin(repository, params)
        pinned, failed = [alone], []
    times = np.sort(np.concatenate([one.times for one in pinned]))
    last_time = cutoff_time(array("q", times.tobytes()), cutoff)
    del times
    before = [int(np.searchsorted(one.times, last_time, side="right")) for one in pinned]
    if order is not None:
        shas: Iterator[Any] = iter([order.sha(before[0] - 1)])
    else:
        shas = one_by_one(
            [
                (_sha_at, (one.source, one.head, params, n_before - 1))
                for one, n_before in zip(pinned, before, strict=True)
                if n_before
            ],
            params.n_workers,
            execution,
            "Finding the cut-off",
        )
    facts = []
    for one, name, n_before in zip(pinned, _distinct(pinned), before, strict=True):
        # A repository that began after the cut-off has no snapshot to train on.
        sha = next(shas) if n_before else None
        if isinstance(sha, Failed):
            failed.append({"source": one.source.given, "reason": sha.reason})
        else:
            facts.append(_facts(one, name, params.ref, sha, cutoff, last_time))
    if not facts:
        raise RepositoryError(_none_left(failed))
    return {**facts[0], "repositories": facts, "failed": failed}


@contextmanager
def opened(facts: Mapping[str, Any], params: GitIngestParams) -> Iterator[PrivateView]:
    """Open a repository for reading by the facts that were recorded of it."""
    source = RepositorySource(
        facts["source"], facts["name"], Path(facts["git_dir"]), Path(facts["common_dir"])
    )
    with _view(source, params, facts["head"]) as view:
        yield view


def commit_order(
    view: PrivateView, facts: Mapping[str, Any], params: GitIngestParams
) -> CommitOrder:
    """Return the commits of a repository that is open, in their order."""
    return _commits(view, facts["key"], facts["head"], params)


def cache_folder(key: str, params: GitIngestParams, kind: str) -> Path:
    """Return the folder of finished pieces of one repository, which is made if needed."""
    folder = Path(params.cache_folder).absolute() / key / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _view(
    source: RepositorySource, params: GitIngestParams, head: str | None = None
) -> AbstractContextManager[PrivateView]:
    return private_view(
        source,
        Path(params.cache_folder).absolute(),
        max_file_bytes=params.max_file_bytes,
        follow_alternates=params.follow_alternates,
        mailmap_commit=head,
    )


def _commits(view: PrivateView, key: str, head: str, params: GitIngestParams) -> CommitOrder:
    if params.all_branches:
        return list_commits(view, head, all_branches=True, since=params.since)
    # Each stage asks for it, and git takes a second to walk 100,000 commits.
    shallow = view.git_dir / "shallow"
    cut_off_at = shallow.read_bytes() if shallow.exists() else b""
    cache, name = _order_cache(key, head, params, cut_off_at)
    order = remembered_order(cache, name)
    if order is None:
        order = list_commits(view, head, all_branches=False, since=params.since)
        remember_order(cache, name, order)
    return order


def _order_cache(
    key: str, head: str, params: GitIngestParams, cut_off_at: bytes
) -> tuple[PieceCache, str]:
    cache = PieceCache(cache_folder(key, params, "order"))
    return cache, digest_of(code_digest(), head, params.since, cut_off_at)


def _pin_all(
    given: Sequence[str], params: GitIngestParams, execution: ExecutionParams
) -> tuple[list[_Pinned], list[dict[str, str]]]:
    results = one_by_one(
        [(_pin_lightly, (one, params)) for one in given],
        params.n_workers,
        execution,
        "Finding repositories",
        # As commits: a clone takes far longer than looking at what is here.
        [_COMMITS_A_CLONE if is_url(one) else _COMMITS_A_LOOK for one in given],
    )
    pinned: list[_Pinned] = []
    failed: list[dict[str, str]] = []
    read_as: dict[Path, str] = {}
    for one, result in zip(given, results, strict=True):
        if isinstance(result, Failed):
            failed.append({"source": one, "reason": result.reason})
        elif (folder := result.source.common_dir) in read_as:
            reason = f"It is the same repository as {read_as[folder]}, which is read."
            failed.append({"source": one, "reason": reason})
        else:
            read_as[folder] = one
            pinned.append(result)
    for out in failed:
        _log.warning("Left out: %s. %s", out["source"], out["reason"], extra={"markup": False})
    if not pinned:
        raise RepositoryError(_none_left(failed))
    return pinned, failed


def _pin(given: str, params: GitIngestParams) -> tuple[_Pinned, CommitOrder]:
    source = locate(given, Path(params.clone_folder))
    with _view(source, params) as view:
        head = resolve_commit(view, params.ref)
        order = _commits(view, source.key, head, params)
    return _Pinned(source, head, np.frombuffer(order.times, np.int64)), order


def _pin_lightly(given: str, params: GitIngestParams) -> _Pinned:
    return _pin(given, params)[0]


def _sha_at(source: RepositorySource, head: str, params: GitIngestParams, index: int) -> str:
    if not params.all_branches:
        # Pinning has just left the order: the repository need not be opened again.
        order = remembered_order(*_order_cache(source.key, head, params, shallow_commits(source)))
        if order is not None:
            return order.sha(index)
    with _view(source, params) as view:
        return _commits(view, source.key, head, params).sha(index)


def _none_left(failed: Sequence[Mapping[str, str]]) -> str:
    named = " ".join(f"{one['source']}: {one['reason']}" for one in failed[:_NAMED_FAILURES])
    more = len(failed) - _NAMED_FAILURES
    return f"None of the {len(failed)} repositories can be read. {named}" + (
        f" And {more} more." if more > 0 else ""
    )


def _facts(
    pinned: _Pinned, name: str, ref: str, sha: str | None, cutoff: Cutoff, last_time: int
) -> dict[str, Any]:
    source = pinned.source
    return {
        "source": source.given,
        "name": name,
        "key": source.key,
        "git_dir": str(source.git_dir),
        "common_dir": str(source.common_dir),
        "ref": ref,
        "head": pinned.head,
        "n_commits": len(pinned.times),
        "shallow": is_shallow(source),
        "borrows_objects": borrows_objects(source),
        "cutoff": {
            "spec": cutoff if isinstance(cutoff, int | float | None) else str(cutoff),
            "sha": pinned.head if cutoff is None else sha,
            "time": dt.datetime.fromtimestamp(last_time, dt.UTC).isoformat(),
        },
    }


def _distinct(pinned: Sequence[_Pinned]) -> list[str]:
    """Names for the column ``repo``; two folders of one name must stay apart."""
    sources = [one.source for one in pinned]
    times = Counter(source.name for source in sources)
    return [
        source.name if times[source.name] == 1 else f"{source.name}-{source.key[:6]}"
        for source in sources
    ]
