"""Several repositories in the same tables: each with its own trees, told apart by its name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Protocol

import pyarrow.compute as pc

from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.pipelines.sequence_build.corpus import Corpus
from the_block_llm.pipelines.sequence_build.drafts import Draft, Dropped
from the_block_llm.pipelines.sequence_build.history import History, read_cutoff

_PATHS: Final = ("path", "old_path")


@dataclass(frozen=True)
class OfRepository:
    """The rows of one repository, its name before every path."""

    table: ParquetParts
    name: str

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows in order; see :class:`~the_block_llm.datasets.parts.ParquetParts`."""
        for batch in self.table.batches([*columns, "repo"], batch_rows=256):
            for row in batch.filter(pc.equal(batch["repo"], self.name)).to_pylist():
                del row["repo"]
                yield {
                    key: f"{self.name}/{value}" if key in _PATHS and value else value
                    for key, value in row.items()
                }


class Drafts(Protocol):
    """Whatever renders documents, anew at each call."""

    def drafts(self) -> Iterator[Draft | Dropped]: ...


@dataclass(frozen=True)
class Corpora:
    """The documents of several repositories, one repository after the other."""

    corpora: Sequence[Corpus]

    def drafts(self) -> Iterator[Draft | Dropped]:
        """Render everything; a commit that several hold, as forks do, is rendered once."""
        commits: set[str] = set()
        for draft in chain.from_iterable(corpus.drafts() for corpus in self.corpora):
            if isinstance(draft, Draft) and (
                draft.kind == "commit" or draft.document_id.startswith("chat/why/")
            ):
                if draft.document_id in commits:
                    continue
                commits.add(draft.document_id)
            yield draft


def project_name(repository_name: str) -> str:
    """What documents call the project."""
    return repository_name.removesuffix(".git") or "this project"


def corpora(
    repository: Mapping[str, Any],
    history: History,
    commits: ParquetParts,
    file_changes: ParquetParts,
    snapshot_files: ParquetParts,
    **choices: Any,
) -> Drafts:
    """One corpus for each repository of the tables.

    Args:
        repository: Facts of the first, and under ``repositories`` of each.
        history: All commits; the same time divides every repository.
        commits: The table.
        file_changes: The table.
        snapshot_files: The table.
        **choices: Handed on to :class:`~the_block_llm.pipelines.sequence_build.corpus.Corpus`.
    """
    each = repository.get("repositories") or [repository]
    if len(each) == 1:
        return Corpus(
            project=project_name(str(each[0].get("name") or "")),
            history=history,
            file_changes=file_changes,
            snapshot_files=snapshot_files,
            **choices,
        )
    found: list[Corpus] = []
    for facts in each:
        name = facts["name"]
        own = [row["sha"] for row in OfRepository(commits, name).rows(["sha"])]
        mine = frozenset(own)
        found.append(
            Corpus(
                project=project_name(name),
                history=History(
                    {sha: c for sha, c in history.commits.items() if sha in mine},
                    {sha: split for sha, split in history.split_of.items() if sha in mine},
                    read_cutoff(facts, facts["cutoff"]["spec"]),
                ),
                file_changes=OfRepository(file_changes, name),
                snapshot_files=OfRepository(snapshot_files, name),
                **choices,
            )
        )
    return Corpora(found)
