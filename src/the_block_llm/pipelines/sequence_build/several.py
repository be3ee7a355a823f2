"""Several repositories in the same tables: each with its own trees, told apart by its name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

from the_block_llm.datasets.by_repository import ByRepository, RowSource
from the_block_llm.datasets.cutoff import read_cutoff
from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.sequence_build.corpus import Corpus
from the_block_llm.pipelines.sequence_build.drafts import Draft, Dropped
from the_block_llm.pipelines.sequence_build.history import History


class Drafts(Protocol):
    """Whatever renders documents, anew at each call."""

    def drafts(self) -> Iterator[Draft | Dropped]: ...


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
    commits: ParquetParts,
    file_changes: ParquetParts,
    snapshot_files: ParquetParts,
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
    tables = (ByRepository(table).of(only) for table in (commits, file_changes, snapshot_files))
    return Tables({**facts, "repositories": [facts]}, *tables)


@dataclass(frozen=True)
class OneOfSeveral:
    """The documents of a repository, without the commits that an earlier one has as well."""

    corpus: Corpus
    elsewhere: frozenset[str]
    """Commits that forks share: they are rendered once, with the first that holds them."""

    def drafts(self) -> Iterator[Draft | Dropped]:
        """Render everything."""
        for draft in self.corpus.drafts():
            # The source of a document about a commit is its sha; of others it is a path.
            if not (isinstance(draft, Draft) and draft.source in self.elsewhere):
                yield draft


@dataclass(frozen=True)
class Corpora:
    """The documents of several repositories, one repository after the other."""

    corpora: Sequence[OneOfSeveral]

    def drafts(self) -> Iterator[Draft | Dropped]:
        """Render everything; a commit that several hold, as forks do, is rendered once."""
        return chain.from_iterable(corpus.drafts() for corpus in self.corpora)


def corpora(
    tables: Tables, history: History, members: range | None = None, **choices: Any
) -> Drafts:
    """One corpus for each repository of the tables.

    Args:
        tables: What git_ingest read.
        history: All commits; the same time divides every repository.
        members: Numbers of the repositories that are meant; none: all.
        **choices: Handed on to :class:`~the_block_llm.pipelines.sequence_build.corpus.Corpus`.
    """
    each = tables.each
    if len(each) == 1:
        return Corpus(
            project=project_name(str(each[0].get("name") or "")),
            history=history,
            file_changes=tables.file_changes,
            snapshot_files=tables.snapshot_files,
            **choices,
        )
    commits, changes, files = (
        ByRepository(table)
        for table in (tables.commits, tables.file_changes, tables.snapshot_files)
        if isinstance(table, ParquetParts)
    )
    order = {sha: number for number, sha in enumerate(history.commits)}
    seen: set[str] = set()
    found: list[OneOfSeveral] = []
    for number, facts in enumerate(each[: None if members is None else members.stop]):
        name = facts["name"]
        own = sorted((row["sha"] for row in commits.of(name).rows(["sha"])), key=order.__getitem__)
        elsewhere = frozenset(sha for sha in own if sha in seen)
        seen.update(own)
        if members is not None and number not in members:
            continue
        prefix = f"{name}/"
        found.append(
            OneOfSeveral(
                Corpus(
                    project=project_name(name),
                    history=_own(history, own, facts),
                    file_changes=changes.of(name, prefix),
                    snapshot_files=files.of(name, prefix),
                    **choices,
                ),
                elsewhere,
            )
        )
    return Corpora(found)


def _own(history: History, shas: Sequence[str], facts: Mapping[str, Any]) -> History:
    return replace(
        history,
        commits={sha: history.commits[sha] for sha in shas},
        split_of={sha: history.split_of[sha] for sha in shas},
        cutoff=read_cutoff(facts),
    )
