"""Nodes of the pipeline ``git_ingest``: thin calls."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.git_ingest.report import ingest_report
from the_block_llm.pipelines.git_ingest.repositories import describe_repositories
from the_block_llm.pipelines.git_ingest.tables import history_tables, snapshot_table


def find_repositories(
    repository: str, repositories: list[str], git_ingest: GitIngestParams, cutoff: Any
) -> dict[str, Any]:
    """Pin what is read: repositories, commits, cut-off."""
    return describe_repositories(repository, repositories, git_ingest, cutoff)


def read_commits(
    repository: Mapping[str, Any], git_ingest: GitIngestParams
) -> tuple[Iterator[pa.RecordBatch], list[Path], list[dict[str, Any]]]:
    """Read the history into rows of ``commits`` and finished parts of ``file_changes``."""
    return history_tables(repository, git_ingest)


def read_files(
    repository: Mapping[str, Any], git_ingest: GitIngestParams
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Read the files at the cut-off and at the ref into finished parts of ``snapshot_files``."""
    return snapshot_table(repository, git_ingest)


def report_ingest(
    repository: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    snapshots: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Say what was read, kept and left out."""
    return ingest_report(repository, history, snapshots)


def plot_ingest(
    repository: Mapping[str, Any], commits: ParquetParts, report: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Draw the history and what was left out of it; gives two matplotlib figures."""
    # Here, so that looking at the project's pipelines need not wait for matplotlib.
    from the_block_llm.pipelines.git_ingest.plots import (  # noqa: PLC0415
        plot_history,
        plot_left_out,
    )

    return plot_history(commits, repository), plot_left_out(report)
