"""Runs the nodes of git_ingest as Kedro would, in a temporary folder."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.builders.git_repository import GitRepository

from the_block_llm import schemas
from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.pipelines.git_ingest import nodes
from the_block_llm.pipelines.git_ingest.params import GitIngestParams

LOCAL = ExecutionParams()


@dataclass(frozen=True)
class IngestResult:
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

    def n_commits_by_repository(self) -> dict[str, int]:
        return dict(Counter(repo for (repo,) in self.rows("commits", "repo")))

    def skip_reasons(self) -> dict[str, str]:
        return {Path(entry["source"]).name: entry["reason"] for entry in self.report["left_out"]}


def params_in(folder: Path, **overrides: Any) -> GitIngestParams:
    folders = {
        "cache_folder": str(folder / "cache"),
        "clone_folder": str(folder / "clones"),
        "pseudonym_key_file": str(folder / "pseudonym.key"),
    }
    return GitIngestParams(**{**folders, "n_processes": 1, **overrides})


def ingest(
    repository: Path | str,
    folder: Path,
    *,
    cutoff: Any = None,
    repositories: str | Sequence[Path] = (),
    execution: ExecutionParams = LOCAL,
    **overrides: Any,
) -> IngestResult:
    params = params_in(folder, **overrides)
    sources = (
        repositories if isinstance(repositories, str) else [str(path) for path in repositories]
    )
    info = nodes.find_repositories(str(repository), sources, params, cutoff, execution)
    commits, changes, history = nodes.read_commits(info, params, execution)
    files, snapshots = nodes.read_files(info, params, history, execution)
    tables = (
        save_table(folder / "commits", schemas.COMMITS, commits),
        save_table(folder / "file_changes", schemas.FILE_CHANGES, changes),
        save_table(folder / "snapshot_files", schemas.SNAPSHOT_FILES, files),
    )
    overlaps = nodes.compare_repositories(info, tables[0], tables[2], params, execution)
    report = nodes.report_ingest(info, history, snapshots, overlaps)
    return IngestResult(info, *tables, report)


def build_repository(path: Path, n_commits: int = 3) -> GitRepository:
    """Build a repository of ``n_commits`` commits that each add a file."""
    repository = GitRepository(path)
    for number in range(n_commits):
        repository.commit(
            f"Add part {number} of {path.name}",
            {f"part{number}.py": f"def {path.name}{number}() -> int:\n    return {number}\n"},
        )
    return repository
