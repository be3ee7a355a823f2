"""Nodes of the pipeline ``git_ingest``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.git_ingest.report import build_report
from the_block_llm.pipelines.git_ingest.sources.fork_detection import find_overlaps
from the_block_llm.pipelines.git_ingest.sources.resolve import resolve_repositories
from the_block_llm.pipelines.git_ingest.tables import history_tables, snapshot_table

_LOCAL: Final = ExecutionParams()


def find_repositories(
    repository: str,
    repositories: str | list[str],
    git_ingest: GitIngestParams,
    cutoff: Any,
    execution: ExecutionParams = _LOCAL,
) -> dict[str, Any]:
    """Find the repositories, pin the commits to read, and determine the cut-off."""
    return resolve_repositories(repository, repositories, git_ingest, cutoff, execution)


def read_commits(
    repository: Mapping[str, Any],
    git_ingest: GitIngestParams,
    execution: ExecutionParams = _LOCAL,
) -> tuple[list[Path], list[Path], list[dict[str, Any]]]:
    """Extract the history into parts of ``commits`` and ``file_changes``."""
    return history_tables(repository, git_ingest, execution)


def read_files(
    repository: Mapping[str, Any],
    git_ingest: GitIngestParams,
    history: Sequence[Mapping[str, Any]] = (),
    execution: ExecutionParams = _LOCAL,
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Extract the files at the cut-off and at the ref into parts of ``snapshot_files``."""
    return snapshot_table(repository, git_ingest, execution, history)


def compare_repositories(
    repository: Mapping[str, Any],
    commits: ParquetTable,
    snapshot_files: ParquetTable,
    git_ingest: GitIngestParams,
    execution: ExecutionParams = _LOCAL,
) -> list[dict[str, Any]]:
    """Find forks and copied files among several repositories."""
    return find_overlaps(repository, commits, snapshot_files, git_ingest.n_workers, execution)


def report_ingest(
    repository: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    snapshots: Sequence[Mapping[str, Any]],
    overlaps: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Report what was read, kept and dropped."""
    return build_report(repository, history, snapshots, overlaps)


def plot_ingest(
    repository: Mapping[str, Any], commits: ParquetTable, report: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """Plot the history, kept text and dropped text as three matplotlib figures."""
    # Imported here, as listing the pipelines should not wait for matplotlib.
    from the_block_llm.pipelines.git_ingest.plots import (  # noqa: PLC0415
        plot_dropped,
        plot_history,
        plot_kept,
    )

    return plot_history(commits, repository), plot_kept(report), plot_dropped(report)
