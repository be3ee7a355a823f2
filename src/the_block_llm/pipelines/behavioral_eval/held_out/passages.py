"""Passages for the arms with retrieval: the repository as of the cut-off.

Retrieval without tuning is the baseline that tuning has to beat.
"""

from collections.abc import Iterator

from the_block_llm.datasets.cutoff import Cutoff
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.retrieval.passages import Passage, commit_passages, file_passages


def passages_at_cutoff(
    cutoff: Cutoff,
    commits: ParquetTable,
    file_changes: ParquetTable,
    snapshot_files: ParquetTable,
    passage_characters: int,
) -> Iterator[Passage]:
    """Yield passages of the files at the cut-off, and one of each commit up to it."""
    for row in snapshot_files.rows(["sha", "path", "text", "kept"]):
        if row["kept"] and row["text"] and row["sha"] == cutoff.sha:
            yield from file_passages(row["path"], row["text"], passage_characters)
    earlier_commits = {
        row["sha"]: row
        for row in commits.rows(["sha", "subject", "body", "committed_at", "is_merge"])
        if not row["is_merge"] and cutoff.includes(row["committed_at"])
    }
    yield from commit_passages(
        earlier_commits, file_changes.rows(["sha", "path"]), passage_characters
    )
