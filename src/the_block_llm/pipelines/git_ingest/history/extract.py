"""Extracts the whole history: cached shards are reused, the others are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from the_block_llm.memory import raise_gc_threshold, trim_heap
from the_block_llm.pipelines.git_ingest.git.program import tools_digest
from the_block_llm.pipelines.git_ingest.git.sandbox import RepositorySandbox
from the_block_llm.pipelines.git_ingest.history.extract_shard import (
    GitReaders,
    extract_history_shard,
)
from the_block_llm.pipelines.git_ingest.history.options import HistoryOptions
from the_block_llm.pipelines.git_ingest.sharding.commit_order import CommitOrder
from the_block_llm.pipelines.git_ingest.sharding.counts import RowCounts
from the_block_llm.pipelines.git_ingest.sharding.shard_assignment import ShardAssignment
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import (
    ShardCache,
    digest_of,
)
from the_block_llm.pipelines.git_ingest.sharding.thread_pool import ThreadIndices, run_in_threads
from the_block_llm.progress import progress_bar

# git keeps every commit that it has printed in memory, more than a kilobyte each.
_MAX_PROCESS_COMMITS: Final = 4096


@dataclass(frozen=True)
class ExtractedHistory:
    """Files of the finished shards, oldest first, and their counts."""

    changes: list[Path]
    commits: list[Path]
    counts: RowCounts
    n_read: int
    """Commits that this run read; the others were cached."""
    n_ignored_attributes: int
    """Ignored lines and files of ``.gitattributes``."""


def extract_history(
    sandbox: RepositorySandbox,
    order: CommitOrder,
    options: HistoryOptions,
    cache: ShardCache,
    n_threads: int,
    assignment: ShardAssignment | None = None,
) -> ExtractedHistory:
    """Read every shard of ``order`` that is not in ``cache``.

    Args:
        sandbox: The repository.
        order: Commits to read.
        options: Options that decide the rows.
        cache: Cache of finished shards; shards of other commits or options are pruned.
        n_threads: Number of shards read in parallel, each with its own git process.
        assignment: Read only these shards, and do not prune.
    """
    shards = list(order.shards())
    if assignment is not None:
        shards = list(assignment.select(shards))
    tools = tools_digest()
    names = [digest_of(tools, sandbox.reading, options, shard.digest) for shard in shards]
    manifests: list[dict[str, Any] | None] = [cache.manifest(name) for name in names]
    missing = sorted({sha for m in manifests if m is not None for sha in m["missing"]})
    restored = sandbox.object_sizes(missing).keys() if missing else ()
    if restored:
        manifests = [None if m and not restored.isdisjoint(m["missing"]) else m for m in manifests]
    todo = [i for i, manifest in enumerate(manifests) if manifest is None]
    n_commits = sum(len(shards[i]) for i in todo)

    def read(indices: ThreadIndices) -> Iterator[tuple[int, dict[str, Any]]]:
        readers = GitReaders(sandbox)
        n_process_commits = 0
        try:
            for index in indices:
                i, next_index = todo[index], indices.peek()
                n_process_commits += len(shards[i])
                restart = n_process_commits > _MAX_PROCESS_COMMITS
                prefetch = () if next_index is None or restart else shards[todo[next_index]].shas
                stem = cache.stem(names[i])
                yield i, extract_history_shard(readers, shards[i], options, stem, prefetch)
                if restart:
                    readers.close_stream()
                    # Rows of all sizes fragment the heap.
                    trim_heap()
                    n_process_commits = 0
        finally:
            readers.close()

    n_total = sum(len(shard) for shard in shards)
    with raise_gc_threshold(), progress_bar("Reading history", n_total) as bar:
        bar.advance(n_total - n_commits)
        for i, manifest in run_in_threads(len(todo), min(n_threads, max(1, len(todo))), read):
            manifests[i] = manifest
            bar.advance(len(shards[i]))
    if assignment is None:
        cache.prune(names)
    counts = RowCounts()
    for finished in manifests:
        assert finished is not None  # noqa: S101
        counts.merge(finished["tally"])
    return ExtractedHistory(
        changes=[cache.folder / f"{name}.changes.parquet" for name in names],
        commits=[cache.folder / f"{name}.commits.arrow" for name in names],
        counts=counts,
        n_read=n_commits,
        n_ignored_attributes=options.gitattributes.n_ignored,
    )
