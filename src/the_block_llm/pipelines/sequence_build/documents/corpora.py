"""Several repositories in the same tables: each with its own trees, told apart by its name."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from the_block_llm.datasets.cutoff import Cutoff, read_cutoff
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.datasets.repository_rows import RepositoryRowIndex, RowSource
from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.sequence_build.document import Draft, Dropped
from the_block_llm.pipelines.sequence_build.documents.corpus import Corpus
from the_block_llm.pipelines.sequence_build.history.commits import (
    History,
    read_commits,
    read_history,
)
from the_block_llm.pipelines.sequence_build.history.splits import Sides, read_sides
from the_block_llm.schemas import SPLITS, Split


@dataclass(frozen=True)
class Tables:
    """The tables of git_ingest, of all repositories or of one, and the facts of each."""

    repository: Mapping[str, Any]
    commits: RowSource
    file_changes: RowSource
    snapshot_files: RowSource

    @property
    def each(self) -> Sequence[Mapping[str, Any]]:
        """The facts of every repository."""
        return self.repository.get("repositories") or [self.repository]


def project_name(repository_name: str) -> str:
    """What documents call the project."""
    return repository_name.removesuffix(".git") or "this project"


def chosen_tables(
    repository: Mapping[str, Any],
    commits: ParquetTable,
    file_changes: ParquetTable,
    snapshot_files: ParquetTable,
    only: str | None,
) -> Tables:
    """All repositories as one corpus, or the one named ``only``.

    Raises:
        ParameterError: There is none of that name.
    """
    if only is None:
        return Tables(repository, commits, file_changes, snapshot_files)
    each = repository.get("repositories") or [repository]
    facts = next((facts for facts in each if facts["name"] == only), None)
    if facts is None:
        named = ", ".join(facts["name"] for facts in each[:8])
        raise ParameterError(
            f"sequence_build.only_repository={only!r} is none of the {len(each)} repositories "
            f"that were read ({named}{', …' if len(each) > 8 else ''})."
        )
    tables = (
        RepositoryRowIndex(table).rows_of(only) for table in (commits, file_changes, snapshot_files)
    )
    return Tables({**facts, "repositories": [facts]}, *tables)


@dataclass(frozen=True)
class Corpora:
    """The documents of several repositories, one repository after the other."""

    tables: Tables
    sides: Sides
    members: range
    """Numbers of the repositories that are meant."""
    choices: Mapping[str, Any]
    """Handed on to ``Corpus``."""

    def drafts(self) -> Iterator[Draft | Dropped]:
        """Render everything; a commit that several hold, as forks do, is rendered once."""
        return (draft for _, draft in self.with_histories())

    def with_histories(self) -> Iterator[tuple[History, Draft | Dropped]]:
        """The same, each with the history of its repository."""
        commits, changes, files = (
            RepositoryRowIndex(table)
            for table in (self.tables.commits, self.tables.file_changes, self.tables.snapshot_files)
            if isinstance(table, ParquetTable)
        )
        for number in self.members:
            facts = self.tables.each[number]
            name, prefix = facts["name"], f"{facts['name']}/"
            own = read_commits(commits.rows_of(name))
            sides = self.sides.each([commit.sha for commit in own])
            history = History(
                {commit.sha: commit for commit in own},
                {commit.sha: side for commit, (side, _) in zip(own, sides, strict=True)},
                read_cutoff(facts),
                self.sides,
            )
            elsewhere = {
                commit.sha
                for commit, (_, holder) in zip(own, sides, strict=True)
                if holder < number
            }
            corpus = Corpus(
                project=project_name(name),
                history=history,
                file_changes=changes.rows_of(name, prefix),
                snapshot_files=files.rows_of(name, prefix),
                **self.choices,
            )
            for draft in corpus.drafts():
                # The source of a document about a commit is its sha; of others it is a path.
                if not (isinstance(draft, Draft) and draft.source in elsewhere):
                    yield history, draft


@dataclass(frozen=True)
class OneCorpus:
    """The documents of one repository."""

    corpus: Corpus

    def drafts(self) -> Iterator[Draft | Dropped]:
        """Render everything."""
        return self.corpus.drafts()

    def with_histories(self) -> Iterator[tuple[History, Draft | Dropped]]:
        """The same, each with the history of its repository."""
        return ((self.corpus.history, draft) for draft in self.corpus.drafts())


def corpora(
    tables: Tables,
    cutoff: Cutoff,
    validation_fraction: float,
    members: range | None = None,
    **choices: Any,
) -> Corpora | OneCorpus:
    """One corpus for each repository of the tables.

    Args:
        tables: What git_ingest read.
        cutoff: The same time divides every repository.
        validation_fraction: Of all commits together.
        members: Numbers of the repositories that are meant; none: all.
        **choices: Handed on to ``Corpus``.
    """
    each = tables.each
    if len(each) == 1:
        return OneCorpus(
            Corpus(
                project=project_name(str(each[0].get("name") or "")),
                history=read_history(tables.commits, cutoff, validation_fraction),
                file_changes=tables.file_changes,
                snapshot_files=tables.snapshot_files,
                **choices,
            )
        )
    assert isinstance(tables.commits, ParquetTable)  # noqa: S101, one alone was handled above
    sides = _sides(tables.commits, tuple(facts["name"] for facts in each), cutoff,
                   validation_fraction)  # fmt: skip
    return Corpora(tables, sides, members or range(len(each)), choices)


@dataclass(frozen=True)
class CommitCounts:
    """What the report says of commits."""

    by_split: Mapping[Split, int]
    train_kinds: Mapping[str, int]
    """Of those that are trained on, merges aside."""


def count_commits(tables: Tables, cutoff: Cutoff, validation_fraction: float) -> CommitCounts:
    """Count the commits of each side, and the kinds of those that are trained on."""
    if len(tables.each) == 1 or not isinstance(tables.commits, ParquetTable):
        history = read_history(tables.commits, cutoff, validation_fraction)
        kinds = Counter(commit.kind for commit in history.on("train") if not commit.is_merge)
        return CommitCounts(Counter(history.split_of.values()), kinds)
    names = tuple(facts["name"] for facts in tables.each)
    sides = _sides(tables.commits, names, cutoff, validation_fraction)
    kinds = Counter()
    for batch in tables.commits.batches(["sha", "kind", "is_merge"]):
        rows = batch.to_pylist()
        for row, (split, _) in zip(rows, sides.each([r["sha"] for r in rows]), strict=True):
            kinds[row["kind"]] += split == "train" and not row["is_merge"]
    return CommitCounts({split: sides.count(split) for split in SPLITS}, kinds)


_REMEMBERED: dict[tuple[Any, ...], Sides] = {}


def _sides(
    commits: ParquetTable, names: tuple[str, ...], cutoff: Cutoff, validation_fraction: float
) -> Sides:
    """The sides of all commits; a worker that does many groups reads them once."""
    # A part has the id of the save that wrote it in its name.
    key = (str(commits.folder), commits.parts[0].name, names, cutoff, validation_fraction)
    if key not in _REMEMBERED:
        _REMEMBERED.clear()
        _REMEMBERED[key] = read_sides(commits, names, cutoff, validation_fraction)
    return _REMEMBERED[key]
