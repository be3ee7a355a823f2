"""The tables of the pipeline, as finished parts, and the counts that the report shows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from the_block_llm.datasets.parts import write_part
from the_block_llm.pipelines.git_ingest.authors import load_naming
from the_block_llm.pipelines.git_ingest.commit_rows import commit_batches
from the_block_llm.pipelines.git_ingest.git_program import require_git
from the_block_llm.pipelines.git_ingest.history import read_history
from the_block_llm.pipelines.git_ingest.history_piece import HistoryOptions
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.git_ingest.piece_cache import (
    PieceCache,
    code_digest,
    digest_of,
    finish_piece,
)
from the_block_llm.pipelines.git_ingest.report import describe_tally
from the_block_llm.pipelines.git_ingest.repositories import (
    cache_folder,
    commit_order,
    opened,
)
from the_block_llm.pipelines.git_ingest.snapshot import SnapshotOptions, read_snapshots
from the_block_llm.schemas import COMMITS


class HistoryTables(NamedTuple):
    """Rows of ``commits``, parts of ``file_changes``, both in the order of time."""

    commits: Iterator[pa.RecordBatch]
    file_changes: list[Path]
    counts: list[dict[str, Any]]
    """One entry a repository."""


class SnapshotTable(NamedTuple):
    """Parts of ``snapshot_files``: cut-off before ref, each in the order of the tree."""

    snapshot_files: list[Path]
    counts: list[dict[str, Any]]
    """One entry a snapshot."""


def history_tables(repository: Mapping[str, Any], params: GitIngestParams) -> HistoryTables:
    """Read the history of every repository in ``repository``."""
    naming = load_naming(params.pseudonymise, Path(params.pseudonym_key_file))
    commit_parts: list[Path] = []
    tables = HistoryTables(_rows_of(commit_parts), [], [])
    for facts in repository["repositories"]:
        options = HistoryOptions(
            repo=facts["name"],
            naming=naming,
            redact=params.redact,
            max_patch_bytes=params.max_patch_bytes,
            max_message_bytes=params.max_message_bytes,
        )
        cache = PieceCache(cache_folder(facts["key"], params, "history"))
        with opened(facts, params) as view:
            order = commit_order(view, facts, params)
            history = read_history(view, order, options, cache, _version(facts), params.n_workers)
        commits, counts = _commits_table(
            history.commits, PieceCache(cache_folder(facts["key"], params, "commits"))
        )
        commit_parts.append(commits)
        tables.file_changes.extend(history.changes)
        tables.counts.append(
            {
                "repo": facts["name"],
                **counts,
                "commits_read_now": history.n_read,
                **describe_tally(history.tally),
            }
        )
    return tables


def snapshot_table(repository: Mapping[str, Any], params: GitIngestParams) -> SnapshotTable:
    """Read the files of every repository at the cut-off and at the ref."""
    table = SnapshotTable([], [])
    for facts in repository["repositories"]:
        shas = dict.fromkeys(sha for sha in (facts["cutoff"]["sha"], facts["head"]) if sha)
        options = SnapshotOptions(facts["name"], params.redact, params.pseudonymise)
        cache = PieceCache(cache_folder(facts["key"], params, "snapshot"))
        with opened(facts, params) as view:
            snapshots = read_snapshots(
                view, list(shas), options, cache, _version(facts), params.n_workers
            )
        for snapshot in snapshots:
            table.snapshot_files.extend(snapshot.parts)
            table.counts.append(
                {"repo": facts["name"], "sha": snapshot.sha, **describe_tally(snapshot.tally)}
            )
    return table


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
        write_part(part, COMMITS, commit_batches(pieces))
        notes = finish_piece(cache.stem(name), [part], {"counts": _count_commits(part)})
    cache.sweep([name])
    return part, notes["counts"]


def _count_commits(part: Path) -> dict[str, Any]:
    columns = ["committed_at", "kind", "is_merge", "is_bot", "informative", "author_id", "reverts"]
    months, kinds, authors = Counter[str](), Counter[str](), Counter[str]()
    n_commits = n_merges = n_bots = n_informative = n_reverts = 0
    for batch in _batches(part, columns):
        n_commits += batch.num_rows
        n_merges += pc.sum(batch["is_merge"]).as_py()
        n_bots += pc.sum(batch["is_bot"]).as_py()
        n_informative += pc.sum(batch["informative"]).as_py()
        n_reverts += batch.num_rows - batch["reverts"].null_count
        months.update(pc.strftime(batch["committed_at"], "%Y-%m").to_pylist())
        kinds.update(batch["kind"].to_pylist())
        authors.update(batch["author_id"].to_pylist())
    return {
        "commits": n_commits,
        "merges": n_merges,
        "by_bots": n_bots,
        "reverts": n_reverts,
        "authors": len(authors),
        "informative_share": n_informative / max(1, n_commits),
        "kinds": dict(kinds.most_common()),
        "commits_by_month": dict(sorted(months.items())),
    }


def _rows_of(parts: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    # Not the parts themselves: Parquet has no seconds, so their schema reads as another one.
    for part in parts:
        for batch in _batches(part, COMMITS.names):
            yield batch.cast(COMMITS)


def _batches(part: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(part) as rows:
        yield from rows.iter_batches(columns=columns)
