"""Nodes of the pipeline ``git_ingest``: thin calls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.git_ingest.report import ingest_report
from the_block_llm.pipelines.git_ingest.sources.fork_detection import overlaps
from the_block_llm.pipelines.git_ingest.sources.resolve import describe_repositories
from the_block_llm.pipelines.git_ingest.tables import history_tables, snapshot_table

_HERE: Final = ExecutionParams()


def find_repositories(
    repository: str,
    repositories: str | list[str],
    git_ingest: GitIngestParams,
    cutoff: Any,
    execution: ExecutionParams = _HERE,
) -> dict[str, Any]:
    """Pin what is read: repositories, commits, cut-off."""
    return describe_repositories(repository, repositories, git_ingest, cutoff, execution)


def read_commits(
    repository: Mapping[str, Any],
    git_ingest: GitIngestParams,
    execution: ExecutionParams = _HERE,
) -> tuple[list[Path], list[Path], list[dict[str, Any]]]:
    """Read the history into finished parts of ``commits`` and ``file_changes``."""
    return history_tables(repository, git_ingest, execution)


def read_files(
    repository: Mapping[str, Any],
    git_ingest: GitIngestParams,
    history: Sequence[Mapping[str, Any]] = (),
    execution: ExecutionParams = _HERE,
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Read the files at the cut-off and at the ref into finished parts of ``snapshot_files``."""
    return snapshot_table(repository, git_ingest, execution, history)


def compare_repositories(
    repository: Mapping[str, Any],
    commits: ParquetTable,
    snapshot_files: ParquetTable,
    git_ingest: GitIngestParams,
    execution: ExecutionParams = _HERE,
) -> list[dict[str, Any]]:
    """Find forks and copied files among several repositories."""
    return overlaps(repository, commits, snapshot_files, git_ingest.n_workers, execution)


def report_ingest(
    repository: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    snapshots: Sequence[Mapping[str, Any]],
    overlaps: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Say what was read, kept and left out."""
    return ingest_report(repository, history, snapshots, overlaps)


def plot_ingest(
    repository: Mapping[str, Any], commits: ParquetTable, report: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """Draw the history, what is kept and what was left out; gives three matplotlib figures."""
    # Here, so that looking at the project's pipelines need not wait for matplotlib.
    from the_block_llm.pipelines.git_ingest.plots import (  # noqa: PLC0415
        plot_history,
        plot_kept,
        plot_left_out,
    )

    return plot_history(commits, repository), plot_kept(report), plot_left_out(report)
