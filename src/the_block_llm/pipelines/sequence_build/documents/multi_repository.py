"""Documents of several repositories in the same tables, with one split by time for all.

Which documents are rendered is decided in ``corpus.py``, for each repository.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from the_block_llm.datasets.cutoff import Cutoff, read_cutoff
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.datasets.repository_rows import RepositoryRowIndex, RowSource
from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.sequence_build.document import Dropped, RenderedDocument
from the_block_llm.pipelines.sequence_build.documents.corpus import Corpus
from the_block_llm.pipelines.sequence_build.history.commits import (
    History,
    read_commits,
    read_history,
)
from the_block_llm.pipelines.sequence_build.history.splits import CommitSplits, assign_splits
from the_block_llm.schemas import SPLITS, Split


@dataclass(frozen=True)
class IngestedTables:
    """The tables of git_ingest for one or several repositories, and their metadata."""

    repository: Mapping[str, Any]
    """The dataset ``repository``."""
    commits: RowSource
    file_changes: RowSource
    snapshot_files: RowSource

    @property
    def repositories(self) -> Sequence[Mapping[str, Any]]:
        """Metadata of each repository."""
        return self.repository.get("repositories") or [self.repository]


def project_name(repository_name: str) -> str:
    """Return the name that documents use for the project."""
    return repository_name.removesuffix(".git") or "this project"


def select_tables(
    repository: Mapping[str, Any],
    commits: ParquetTable,
    file_changes: ParquetTable,
    snapshot_files: ParquetTable,
    only: str | None,
) -> IngestedTables:
    """Select all repositories as one corpus, or only the one named ``only``.

    Raises:
        ParameterError: No repository has that name.
    """
    if only is None:
        return IngestedTables(repository, commits, file_changes, snapshot_files)
    repositories = repository.get("repositories") or [repository]
    metadata = next((entry for entry in repositories if entry["name"] == only), None)
    if metadata is None:
        names = ", ".join(entry["name"] for entry in repositories[:8])
        raise ParameterError(
            f"sequence_build.only_repository={only!r} is none of the {len(repositories)} "
            f"ingested repositories ({names}{', …' if len(repositories) > 8 else ''})."
        )
    tables = (
        RepositoryRowIndex(table).rows_of(only) for table in (commits, file_changes, snapshot_files)
    )
    return IngestedTables({**metadata, "repositories": [metadata]}, *tables)


@dataclass(frozen=True)
class MultiRepositoryCorpus:
    """Documents of several repositories, one repository after the other."""

    tables: IngestedTables
    splits: CommitSplits
    repository_indices: range
    """Indices of the repositories to render."""
    corpus_options: Mapping[str, Any]
    """Keyword arguments for ``Corpus``."""

    def documents(self) -> Iterator[RenderedDocument | Dropped]:
        """Render all documents; a commit that several repositories share is rendered once."""
        return (document for _, document in self.documents_with_history())

    def documents_with_history(self) -> Iterator[tuple[History, RenderedDocument | Dropped]]:
        """Render all documents, each with the history of its repository."""
        commits, changes, files = (
            RepositoryRowIndex(table)
            for table in (self.tables.commits, self.tables.file_changes, self.tables.snapshot_files)
            if isinstance(table, ParquetTable)
        )
        for number in self.repository_indices:
            metadata = self.tables.repositories[number]
            name, prefix = metadata["name"], f"{metadata['name']}/"
            repository_commits = read_commits(commits.rows_of(name))
            splits = self.splits.lookup([commit.sha for commit in repository_commits])
            history = History(
                {commit.sha: commit for commit in repository_commits},
                {
                    commit.sha: split
                    for commit, (split, _) in zip(repository_commits, splits, strict=True)
                },
                read_cutoff(metadata),
                self.splits,
            )
            rendered_in_other_repositories = {
                commit.sha
                for commit, (_, first_repository) in zip(repository_commits, splits, strict=True)
                if first_repository < number
            }
            corpus = Corpus(
                project=project_name(name),
                history=history,
                file_changes=changes.rows_of(name, prefix),
                snapshot_files=files.rows_of(name, prefix),
                **self.corpus_options,
            )
            for document in corpus.documents():
                # The source of a document about a commit is its sha; of others it is a path.
                if not (
                    isinstance(document, RenderedDocument)
                    and document.source in rendered_in_other_repositories
                ):
                    yield history, document


@dataclass(frozen=True)
class SingleCorpus:
    """Documents of one repository."""

    corpus: Corpus

    def documents(self) -> Iterator[RenderedDocument | Dropped]:
        """Render all documents."""
        return self.corpus.documents()

    def documents_with_history(self) -> Iterator[tuple[History, RenderedDocument | Dropped]]:
        """Render all documents, each with the history of its repository."""
        return ((self.corpus.history, document) for document in self.corpus.documents())


def build_corpus(
    tables: IngestedTables,
    cutoff: Cutoff,
    validation_fraction: float,
    repository_indices: range | None = None,
    **corpus_options: Any,
) -> MultiRepositoryCorpus | SingleCorpus:
    """Return the corpora of the repositories in the tables.

    Args:
        tables: The ingested tables.
        cutoff: Shared by all repositories.
        validation_fraction: Fraction of the commits of all repositories together.
        repository_indices: Indices of the repositories to render; default: all.
        **corpus_options: Keyword arguments for ``Corpus``.
    """
    repositories = tables.repositories
    if len(repositories) == 1:
        return SingleCorpus(
            Corpus(
                project=project_name(str(repositories[0].get("name") or "")),
                history=read_history(tables.commits, cutoff, validation_fraction),
                file_changes=tables.file_changes,
                snapshot_files=tables.snapshot_files,
                **corpus_options,
            )
        )
    assert isinstance(tables.commits, ParquetTable)  # noqa: S101, one repository: handled above
    names = tuple(metadata["name"] for metadata in repositories)
    splits = _cached_splits(tables.commits, names, cutoff, validation_fraction)
    return MultiRepositoryCorpus(
        tables, splits, repository_indices or range(len(repositories)), corpus_options
    )


@dataclass(frozen=True)
class CommitCounts:
    """Commit counts for the report."""

    by_split: Mapping[Split, int]
    train_kinds: Mapping[str, int]
    """Training commits by kind, without merges."""


def count_commits(
    tables: IngestedTables, cutoff: Cutoff, validation_fraction: float
) -> CommitCounts:
    """Count commits by split, and training commits by kind."""
    if len(tables.repositories) == 1 or not isinstance(tables.commits, ParquetTable):
        history = read_history(tables.commits, cutoff, validation_fraction)
        kinds = Counter(
            commit.kind for commit in history.commits_in("train") if not commit.is_merge
        )
        return CommitCounts(Counter(history.split_by_sha.values()), kinds)
    names = tuple(metadata["name"] for metadata in tables.repositories)
    splits = _cached_splits(tables.commits, names, cutoff, validation_fraction)
    kinds = Counter()
    for batch in tables.commits.batches(["sha", "kind", "is_merge"]):
        rows = batch.to_pylist()
        for row, (split, _) in zip(rows, splits.lookup([r["sha"] for r in rows]), strict=True):
            kinds[row["kind"]] += split == "train" and not row["is_merge"]
    return CommitCounts({split: splits.count(split) for split in SPLITS}, kinds)


_SPLITS_CACHE: dict[tuple[Any, ...], CommitSplits] = {}


def _cached_splits(
    commits: ParquetTable, names: tuple[str, ...], cutoff: Cutoff, validation_fraction: float
) -> CommitSplits:
    """Assign splits once per process: a worker renders several batches of repositories."""
    # The name of a part contains the id of the save that wrote it.
    key = (str(commits.folder), commits.parts[0].name, names, cutoff, validation_fraction)
    if key not in _SPLITS_CACHE:
        _SPLITS_CACHE.clear()
        _SPLITS_CACHE[key] = assign_splits(commits, names, cutoff, validation_fraction)
    return _SPLITS_CACHE[key]
