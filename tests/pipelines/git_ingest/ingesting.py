"""Runs the stages of git_ingest as Kedro would, with everything in a temporary folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from the_block_llm import schemas
from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.pipelines.git_ingest import nodes
from the_block_llm.pipelines.git_ingest.params import GitIngestParams

HERE = ExecutionParams()


@dataclass(frozen=True)
class Ingested:
    repository: dict[str, Any]
    commits: ParquetTable
    file_changes: ParquetTable
    snapshot_files: ParquetTable
    report: dict[str, Any]

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        parts: ParquetTable = getattr(self, table)
        return [tuple(row[c] for c in columns) for row in parts.rows()]

    def all_rows(self) -> list[list[dict[str, Any]]]:
        tables = (self.commits, self.file_changes, self.snapshot_files)
        return [list(table.rows()) for table in tables]


def params_in(folder: Path, **choices: Any) -> GitIngestParams:
    return GitIngestParams(
        cache_folder=str(folder / "cache"),
        clone_folder=str(folder / "clones"),
        pseudonym_key_file=str(folder / "pseudonym.key"),
        **{"n_processes": 1, **choices},
    )


def ingest(
    repository: Path | str,
    folder: Path,
    *,
    cutoff: Any = None,
    repositories: str | Sequence[Path] = (),
    execution: ExecutionParams = HERE,
    **choices: Any,
) -> Ingested:
    params = params_in(folder, **choices)
    several = (
        repositories if isinstance(repositories, str) else [str(path) for path in repositories]
    )
    facts = nodes.find_repositories(str(repository), several, params, cutoff, execution)
    commits, changes, history = nodes.read_commits(facts, params, execution)
    files, snapshots = nodes.read_files(facts, params, history, execution)
    tables = (
        save_table(folder / "commits", schemas.COMMITS, commits),
        save_table(folder / "file_changes", schemas.FILE_CHANGES, changes),
        save_table(folder / "snapshot_files", schemas.SNAPSHOT_FILES, files),
    )
    overlaps = nodes.compare_repositories(facts, tables[0], tables[2], params, execution)
    report = nodes.report_ingest(facts, history, snapshots, overlaps)
    return Ingested(facts, *tables, report)
