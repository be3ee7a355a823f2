"""Which repositories are read, up to which commit, and where training ends."""

import datetime as dt
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.git_ingest.commit_order import (
    CommitOrder,
    Cutoff,
    cutoff_time,
    list_commits,
    remember_order,
    remembered_order,
)
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.git_ingest.piece_cache import PieceCache, code_digest, digest_of
from the_block_llm.pipelines.git_ingest.private_view import (
    PrivateView,
    borrows_objects,
    is_shallow,
    private_view,
    resolve_commit,
)
from the_block_llm.pipelines.git_ingest.source import RepositorySource, locate


def describe_repositories(
    repository: str, repositories: Sequence[str], params: GitIngestParams, cutoff: Cutoff
) -> dict[str, Any]:
    """Find the repositories, pin the commits to read, and settle the cut-off.

    Args:
        repository: Path or URL; read where ``repositories`` is empty.
        repositories: Several paths or URLs, read into the same tables.
        params: Of this pipeline.
        cutoff: See :func:`~the_block_llm.pipelines.git_ingest.commit_order.cutoff_time`. A
            fraction counts the commits of all repositories together.

    Returns:
        The facts of the first repository, and under ``repositories`` those of each.

    Raises:
        RepositoryError: One cannot be found or read, or has no commits.
        ParameterError: The cut-off is not understood, or a repository is listed twice.
    """
    given = list(repositories) or [repository]
    sources = [locate(one, Path(params.clone_folder)) for one in given]
    if len({source.common_dir for source in sources}) < len(sources):
        raise ParameterError(f"repositories={given} names one repository twice. List each once.")
    pinned: list[tuple[str, CommitOrder]] = []
    for source in sources:
        with _view(source, params) as view:
            head = resolve_commit(view, params.ref)
            pinned.append((head, _commits(view, source.key, head, params)))
    times = array("q", sorted(time for _, order in pinned for time in order.times))
    last_time = cutoff_time(times, cutoff)
    facts = [
        _facts(source, name, params.ref, head, order, cutoff, last_time)
        for source, name, (head, order) in zip(sources, _distinct(sources), pinned, strict=True)
    ]
    return {**facts[0], "repositories": facts}


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
    cache = PieceCache(cache_folder(key, params, "order"))
    name = digest_of(code_digest(), head, params.since, cut_off_at)
    order = remembered_order(cache, name)
    if order is None:
        order = list_commits(view, head, all_branches=False, since=params.since)
        remember_order(cache, name, order)
    return order


def _facts(
    source: RepositorySource,
    name: str,
    ref: str,
    head: str,
    order: CommitOrder,
    cutoff: Cutoff,
    last_time: int,
) -> dict[str, Any]:
    newest = order.newest_at(last_time)
    # A repository that began after the cut-off has no snapshot to train on.
    sha = None if newest is None else order.sha(newest)
    return {
        "source": source.given,
        "name": name,
        "key": source.key,
        "git_dir": str(source.git_dir),
        "common_dir": str(source.common_dir),
        "ref": ref,
        "head": head,
        "n_commits": len(order),
        "shallow": is_shallow(source),
        "borrows_objects": borrows_objects(source),
        "cutoff": {
            "spec": cutoff if isinstance(cutoff, int | float | None) else str(cutoff),
            "sha": head if cutoff is None else sha,
            "time": dt.datetime.fromtimestamp(last_time, dt.UTC).isoformat(),
        },
    }


def _distinct(sources: Sequence[RepositorySource]) -> list[str]:
    """Names for the column ``repo``; two folders of one name must stay apart."""
    names = [source.name for source in sources]
    return [
        name if names.count(name) == 1 else f"{name}-{source.key[:6]}"
        for name, source in zip(names, sources, strict=True)
    ]
