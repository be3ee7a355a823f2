"""The tables of the pipeline, as finished parts, and the counts that the report shows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from the_block_llm.datasets.parquet_table import write_part
from the_block_llm.errors import RepositoryError
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.pipelines.git_ingest.filters.gitattributes import read_attributes
from the_block_llm.pipelines.git_ingest.git.program import require_git
from the_block_llm.pipelines.git_ingest.git.tree import list_tree
from the_block_llm.pipelines.git_ingest.history.extract import History, read_history
from the_block_llm.pipelines.git_ingest.history.options import HistoryOptions
from the_block_llm.pipelines.git_ingest.history.revert_detection import commit_batches
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import AuthorNaming, load_naming
from the_block_llm.pipelines.git_ingest.report import describe_tally
from the_block_llm.pipelines.git_ingest.sharding.fan_out import Failed
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import (
    PieceCache,
    code_digest,
    digest_of,
    finish_piece,
)
from the_block_llm.pipelines.git_ingest.sharding.shards import Share, in_shares
from the_block_llm.pipelines.git_ingest.snapshot.extract import (
    Snapshot,
    SnapshotOptions,
    read_snapshots,
)
from the_block_llm.pipelines.git_ingest.sources.resolve import (
    cache_folder,
    commit_order,
    opened,
)
from the_block_llm.schemas import COMMITS


class HistoryTables(NamedTuple):
    """Parts of ``commits`` and of ``file_changes``, both in the order of time."""

    commits: list[Path]
    file_changes: list[Path]
    counts: list[dict[str, Any]]
    """One entry a repository; of one that could not be read its name and why it ``failed``."""


class SnapshotTable(NamedTuple):
    """Parts of ``snapshot_files``: cut-off before ref, each in the order of the tree."""

    snapshot_files: list[Path]
    counts: list[dict[str, Any]]
    """One entry a snapshot; of a repository that could not be read one that says so."""


class _History(NamedTuple):
    """The finished parts of one repository's history."""

    commits: Path
    changes: list[Path]
    counts: dict[str, Any]


def history_tables(
    repository: Mapping[str, Any], params: GitIngestParams, execution: ExecutionParams
) -> HistoryTables:
    """Read the history of every repository in ``repository``.

    Raises:
        RepositoryError: There is none whose history can be read.
    """
    naming = load_naming(params.pseudonymise, Path(params.pseudonym_key_file))
    tables = HistoryTables([], [], [])
    every = repository["repositories"]
    for facts, read in zip(every, _histories(every, params, naming, execution), strict=True):
        if isinstance(read, Failed):
            tables.counts.append({"repo": facts["name"], "failed": read.reason})
            continue
        tables.commits.append(read.commits)
        tables.file_changes.extend(read.changes)
        tables.counts.append(read.counts)
    if not tables.commits:
        raise RepositoryError(
            f"The history of none of the {len(every)} repositories can be read. "
            f"{every[0]['source']}: {tables.counts[0]['failed']}"
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
        repository: Facts of the repositories.
        params: Of this pipeline.
        execution: Where the work is done.
        history: Counts of :func:`history_tables`; a repository that failed there is left out.
    """
    table = SnapshotTable([], [])
    failed = {counts["repo"] for counts in history if "failed" in counts}
    every = [facts for facts in repository["repositories"] if facts["name"] not in failed]
    for facts, read in zip(every, _snapshots(every, params, execution), strict=True):
        if isinstance(read, Failed):
            table.counts.append({"repo": facts["name"], "failed": read.reason})
            continue
        for snapshot in read:
            table.snapshot_files.extend(snapshot.parts)
            table.counts.append(
                {"repo": facts["name"], "sha": snapshot.sha, **describe_tally(snapshot.tally)}
            )
    return table


def _histories(
    every: Sequence[Mapping[str, Any]],
    params: GitIngestParams,
    naming: AuthorNaming,
    execution: ExecutionParams,
) -> Iterator[_History | Failed]:
    if len(every) == 1 and execution.engine == "local":
        return iter([_history_of(every[0], params, naming, params.n_workers)])
    return in_shares(
        every,
        whole=lambda facts: (_history_of, (facts, params, naming, 1)),
        share=lambda facts, share: (_read_share_of_history, (facts, params, naming, share)),
        n_workers=params.n_workers,
        execution=execution,
        description="Reading histories",
    )


def _snapshots(
    every: Sequence[Mapping[str, Any]], params: GitIngestParams, execution: ExecutionParams
) -> Iterator[list[Snapshot] | Failed]:
    if len(every) == 1 and execution.engine == "local":
        return iter([_snapshots_of(every[0], params, params.n_workers)])
    return in_shares(
        every,
        whole=lambda facts: (_snapshots_of, (facts, params, 1)),
        share=lambda facts, share: (_read_share_of_snapshots, (facts, params, share)),
        n_workers=params.n_workers,
        execution=execution,
        description="Reading files",
    )


def _history_of(
    facts: Mapping[str, Any], params: GitIngestParams, naming: AuthorNaming, n_threads: int
) -> _History:
    history = _read_history(facts, params, naming, n_threads, None)
    commits, counts = _commits_table(
        history.commits, PieceCache(cache_folder(facts["key"], params, "commits"))
    )
    return _History(
        commits,
        history.changes,
        {
            "repo": facts["name"],
            **counts,
            "commits_read_now": history.n_read,
            "attributes_left_out": history.attributes_left_out,
            **describe_tally(history.tally),
        },
    )


def _read_share_of_history(
    facts: Mapping[str, Any], params: GitIngestParams, naming: AuthorNaming, share: Share
) -> None:
    _read_history(facts, params, naming, 1, share)


def _read_history(
    facts: Mapping[str, Any],
    params: GitIngestParams,
    naming: AuthorNaming,
    n_threads: int,
    share: Share | None,
) -> History:
    cache = PieceCache(cache_folder(facts["key"], params, "history"))
    with opened(facts, params) as view:
        order = commit_order(view, facts, params)
        options = HistoryOptions(
            repo=facts["name"],
            naming=naming,
            redact=params.redact,
            max_patch_bytes=params.max_patch_bytes,
            max_message_bytes=params.max_message_bytes,
            attributes=read_attributes(view, list_tree(view, facts["head"])),
        )
        return read_history(view, order, options, cache, _version(facts), n_threads, share)


def _snapshots_of(
    facts: Mapping[str, Any],
    params: GitIngestParams,
    n_threads: int,
    share: Share | None = None,
) -> list[Snapshot]:
    shas = dict.fromkeys(sha for sha in (facts["cutoff"]["sha"], facts["head"]) if sha)
    options = SnapshotOptions(facts["name"], params.redact, params.pseudonymise)
    cache = PieceCache(cache_folder(facts["key"], params, "snapshot"))
    with opened(facts, params) as view:
        return read_snapshots(view, list(shas), options, cache, _version(facts), n_threads, share)


def _read_share_of_snapshots(
    facts: Mapping[str, Any], params: GitIngestParams, share: Share
) -> None:
    _snapshots_of(facts, params, 1, share)


def _version(facts: Mapping[str, Any]) -> str:
    """Return a digest of everything but options and commits that decides the rows."""
    return digest_of(
        code_digest(),
        require_git(),
        version_of("detect-secrets"),
        version_of("pygments"),
        facts["name"],
    )


def _commits_table(pieces: Sequence[Path], cache: PieceCache) -> tuple[Path, dict[str, Any]]:
    name = digest_of([piece.name for piece in pieces])
    part = cache.folder / f"{name}.parquet"
    notes = cache.notes(name)
    if notes is None:
        counts = _CommitCounts()
        write_part(part, COMMITS, map(counts.counted, commit_batches(pieces)))
        notes = finish_piece(cache.stem(name), [part], {"counts": counts.as_json()})
    cache.sweep([name])
    return part, notes["counts"]


class _CommitCounts:
    """What the report says of the commits of a repository."""

    def __init__(self) -> None:
        self._numbers = Counter[str]()
        self._months, self._telling_months = Counter[str](), Counter[str]()
        self._kinds, self._authors = Counter[str](), Counter[str]()

    def counted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Count the rows of ``batch`` and return it."""
        self._numbers.update(
            commits=batch.num_rows,
            merges=batch["is_merge"].true_count,
            by_bots=batch["is_bot"].true_count,
            informative=batch["informative"].true_count,
            reverts=batch.num_rows - batch["reverts"].null_count,
        )
        month = batch["committed_at"].cast(pa.int64()).to_numpy().astype("M8[s]").astype("M8[M]")
        telling = batch["informative"].to_numpy(zero_copy_only=False)
        for counter, values in (
            (self._months, pa.array(month.astype(str))),
            (self._telling_months, pa.array(month[telling].astype(str))),
            (self._kinds, batch["kind"]),
            (self._authors, batch["author_id"]),
        ):
            counted = pc.value_counts(values)
            counter.update(dict(zip(*(counted.field(i).to_pylist() for i in (0, 1)), strict=True)))
        return batch

    def as_json(self) -> dict[str, Any]:
        numbers = self._numbers
        return {
            "commits": numbers["commits"],
            "merges": numbers["merges"],
            "by_bots": numbers["by_bots"],
            "reverts": numbers["reverts"],
            "authors": len(self._authors),
            "informative_share": numbers["informative"] / max(1, numbers["commits"]),
            "kinds": dict(self._kinds.most_common()),
            "commits_by_month": dict(sorted(self._months.items())),
            "informative_by_month": dict(sorted(self._telling_months.items())),
        }
