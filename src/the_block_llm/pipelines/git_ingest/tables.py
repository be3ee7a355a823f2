"""Extracts the tables of the pipeline as finished Parquet parts, with counts for the report."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from the_block_llm.datasets.parquet_table import write_part
from the_block_llm.errors import RepositoryError
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.pipelines.git_ingest.filters.gitattributes import read_gitattributes
from the_block_llm.pipelines.git_ingest.git.sandbox import mailmap_id
from the_block_llm.pipelines.git_ingest.git.tree import list_tree
from the_block_llm.pipelines.git_ingest.history.extract import ExtractedHistory, extract_history
from the_block_llm.pipelines.git_ingest.history.options import HistoryOptions
from the_block_llm.pipelines.git_ingest.history.revert_detection import commit_batches
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.git_ingest.redaction.allow_list import AllowList
from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import (
    Pseudonymizer,
    load_pseudonymizer,
)
from the_block_llm.pipelines.git_ingest.report import describe_counts
from the_block_llm.pipelines.git_ingest.sharding.fan_out import Failure
from the_block_llm.pipelines.git_ingest.sharding.shard_assignment import (
    ShardAssignment,
    run_sharded,
)
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import (
    ShardCache,
    digest_of,
    finish_shard,
)
from the_block_llm.pipelines.git_ingest.snapshot.extract import (
    Snapshot,
    SnapshotOptions,
    extract_snapshots,
)
from the_block_llm.pipelines.git_ingest.sources.resolve import (
    cache_folder,
    open_repository,
    read_commit_order,
)
from the_block_llm.schemas import COMMITS


class HistoryTables(NamedTuple):
    """Parts of ``commits`` and ``file_changes``, both ordered by time in each repository."""

    commits: list[Path]
    file_changes: list[Path]
    counts: list[dict[str, Any]]
    """One entry per repository; for one that could not be read, its name and ``failed``: why."""


class SnapshotTable(NamedTuple):
    """Parts of ``snapshot_files``: cut-off before ref, each in the order of the tree."""

    snapshot_files: list[Path]
    counts: list[dict[str, Any]]
    """One entry per snapshot; for a repository that could not be read, its name and ``failed``.
    Each has ``pinned_at`` of ``repository.json``: these counts are stored after all tables."""


class _RepositoryHistory(NamedTuple):
    """Finished parts and counts of one repository's history."""

    commits: Path
    changes: list[Path]
    counts: dict[str, Any]


def history_tables(
    repository: Mapping[str, Any], params: GitIngestParams, execution: ExecutionParams
) -> HistoryTables:
    """Read the history of every repository in ``repository``.

    Raises:
        RepositoryError: No repository's history can be read.
    """
    pseudonymizer = load_pseudonymizer(params.pseudonymise, Path(params.pseudonym_key_file))
    tables = HistoryTables([], [], [])
    repositories = repository["repositories"]
    results = _extract_histories(repositories, params, pseudonymizer, execution)
    for info, result in zip(repositories, results, strict=True):
        if isinstance(result, Failure):
            tables.counts.append({"repo": info["name"], "failed": result.reason})
            continue
        tables.commits.append(result.commits)
        tables.file_changes.extend(result.changes)
        tables.counts.append(result.counts)
    if not tables.commits:
        raise RepositoryError(
            f"The history of none of the {len(repositories)} repositories can be read. "
            f"{repositories[0]['source']}: {tables.counts[0]['failed']}"
        )
    return tables


def snapshot_table(
    repository: Mapping[str, Any],
    params: GitIngestParams,
    execution: ExecutionParams,
    history: Sequence[Mapping[str, Any]] = (),
) -> SnapshotTable:
    """Read the files of every repository at the cut-off and at the ref.

    Args:
        repository: As in ``repository.json``.
        params: Parameters of this pipeline.
        execution: Engine to run on.
        history: Counts of :func:`history_tables`; repositories that failed there are skipped.
    """
    table = SnapshotTable([], [])
    failed = {counts["repo"] for counts in history if "failed" in counts}
    repositories = [info for info in repository["repositories"] if info["name"] not in failed]
    results = _extract_all_snapshots(repositories, params, execution)
    for info, result in zip(repositories, results, strict=True):
        entry = {"repo": info["name"], "pinned_at": repository.get("pinned_at")}
        if isinstance(result, Failure):
            table.counts.append({**entry, "failed": result.reason})
            continue
        for snapshot in result:
            table.snapshot_files.extend(snapshot.parts)
            table.counts.append({**entry, "sha": snapshot.sha, **describe_counts(snapshot.counts)})
    return table


def _extract_histories(
    repositories: Sequence[Mapping[str, Any]],
    params: GitIngestParams,
    pseudonymizer: Pseudonymizer,
    execution: ExecutionParams,
) -> Iterator[_RepositoryHistory | Failure]:
    if len(repositories) == 1 and execution.engine == "local":
        history = _repository_history(repositories[0], params, pseudonymizer, params.n_workers)
        return iter([history])
    return run_sharded(
        repositories,
        full_job=lambda info: (_repository_history, (info, params, pseudonymizer, 1)),
        partial_job=lambda info, assignment: (
            _cache_history_shards,
            (info, params, pseudonymizer, assignment),
        ),
        n_workers=params.n_workers,
        execution=execution,
        description="Reading histories",
    )


def _extract_all_snapshots(
    repositories: Sequence[Mapping[str, Any]], params: GitIngestParams, execution: ExecutionParams
) -> Iterator[list[Snapshot] | Failure]:
    if len(repositories) == 1 and execution.engine == "local":
        return iter([_repository_snapshots(repositories[0], params, params.n_workers)])
    return run_sharded(
        repositories,
        full_job=lambda info: (_repository_snapshots, (info, params, 1)),
        partial_job=lambda info, assignment: (_cache_snapshot_shards, (info, params, assignment)),
        n_workers=params.n_workers,
        execution=execution,
        description="Reading files",
    )


def _repository_history(
    info: Mapping[str, Any], params: GitIngestParams, pseudonymizer: Pseudonymizer, n_threads: int
) -> _RepositoryHistory:
    history = _extract_history(info, params, pseudonymizer, n_threads, None)
    commits, counts = _commits_table(
        history.commits, ShardCache(cache_folder(info["key"], params, "commits"))
    )
    return _RepositoryHistory(
        commits,
        history.changes,
        {
            "repo": info["name"],
            **counts,
            "commits_read_now": history.n_read,
            "attributes_left_out": history.n_ignored_attributes,
            **describe_counts(history.counts),
        },
    )


def _cache_history_shards(
    info: Mapping[str, Any],
    params: GitIngestParams,
    pseudonymizer: Pseudonymizer,
    assignment: ShardAssignment,
) -> None:
    _extract_history(info, params, pseudonymizer, 1, assignment)


def _extract_history(
    info: Mapping[str, Any],
    params: GitIngestParams,
    pseudonymizer: Pseudonymizer,
    n_threads: int,
    assignment: ShardAssignment | None,
) -> ExtractedHistory:
    cache = ShardCache(cache_folder(info["key"], params, "history"))
    with open_repository(info, params) as sandbox:
        order = read_commit_order(sandbox, info, params)
        options = HistoryOptions(
            repo=info["name"],
            pseudonymizer=pseudonymizer,
            redact=params.redact,
            allowed=_allow_list(params),
            max_patch_bytes=params.max_patch_bytes,
            max_message_bytes=params.max_message_bytes,
            gitattributes=read_gitattributes(sandbox, list_tree(sandbox, info["head"])),
            mailmap=mailmap_id(sandbox, info["head"]),
        )
        return extract_history(sandbox, order, options, cache, n_threads, assignment)


def _repository_snapshots(
    info: Mapping[str, Any],
    params: GitIngestParams,
    n_threads: int,
    assignment: ShardAssignment | None = None,
) -> list[Snapshot]:
    shas = dict.fromkeys(sha for sha in (info["cutoff"]["sha"], info["head"]) if sha)
    options = SnapshotOptions(info["name"], params.redact, params.pseudonymise, _allow_list(params))
    cache = ShardCache(cache_folder(info["key"], params, "snapshot"))
    with open_repository(info, params) as sandbox:
        return extract_snapshots(sandbox, list(shas), options, cache, n_threads, assignment)


def _cache_snapshot_shards(
    info: Mapping[str, Any], params: GitIngestParams, assignment: ShardAssignment
) -> None:
    _repository_snapshots(info, params, 1, assignment)


def _allow_list(params: GitIngestParams) -> AllowList:
    return AllowList.of(params.allowed_secrets, params.allowed_secret_paths)


def _commits_table(shards: Sequence[Path], cache: ShardCache) -> tuple[Path, dict[str, Any]]:
    name = digest_of([shard.name for shard in shards])
    part = cache.folder / f"{name}.parquet"
    manifest = cache.manifest(name)
    if manifest is None:
        counts = _CommitCounts()
        write_part(part, COMMITS, map(counts.add, commit_batches(shards)))
        manifest = finish_shard(cache.stem(name), [part], {"counts": counts.as_json()})
    cache.prune([name])
    return part, manifest["counts"]


class _CommitCounts:
    """Counts of the commits of a repository."""

    def __init__(self) -> None:
        self._totals = Counter[str]()
        self._months, self._informative_months = Counter[str](), Counter[str]()
        self._kinds, self._authors = Counter[str](), Counter[str]()

    def add(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Count the rows of ``batch`` and return it."""
        self._totals.update(
            commits=batch.num_rows,
            merges=batch["is_merge"].true_count,
            by_bots=batch["is_bot"].true_count,
            informative=batch["informative"].true_count,
            reverts=batch.num_rows - batch["reverts"].null_count,
        )
        month = batch["committed_at"].cast(pa.int64()).to_numpy().astype("M8[s]").astype("M8[M]")
        informative = batch["informative"].to_numpy(zero_copy_only=False)
        for counter, values in (
            (self._months, pa.array(month.astype(str))),
            (self._informative_months, pa.array(month[informative].astype(str))),
            (self._kinds, batch["kind"]),
            (self._authors, batch["author_id"]),
        ):
            counted = pc.value_counts(values)
            counter.update(dict(zip(*(counted.field(i).to_pylist() for i in (0, 1)), strict=True)))
        return batch

    def as_json(self) -> dict[str, Any]:
        totals = self._totals
        return {
            "commits": totals["commits"],
            "merges": totals["merges"],
            "by_bots": totals["by_bots"],
            "reverts": totals["reverts"],
            "authors": len(self._authors),
            "informative_share": totals["informative"] / max(1, totals["commits"]),
            "kinds": dict(self._kinds.most_common()),
            "commits_by_month": dict(sorted(self._months.items())),
            "informative_by_month": dict(sorted(self._informative_months.items())),
        }
