"""Commands ``kedro rows`` and ``kedro audit``, which inspect rows and leaks."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.datasets.project import OpenProject
from the_block_llm.errors import ParameterError, stored_data
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.sequence_build.dedup.screening import Screening
from the_block_llm.pipelines.sequence_build.inspect.nearest import nearest_training_documents
from the_block_llm.pipelines.sequence_build.inspect.row_view import plain_text, render_row
from the_block_llm.pipelines.sequence_build.inspect.samples import sample_page

_SPLITS: Final = ("train", "validation", "held_out")
_SAMPLE_SEED: Final = 0  # the same rows give the same page
_COMMON_OPTIONS: Final[list[click.Parameter]] = [
    click.Option(
        ["--model", "profile"],
        metavar="NAME",
        help="Profile of the rows; default: the selected one.",
    ),
    click.Option(["--env", "-e"], metavar="ENV", help="Configuration environment."),
]

ROWS_HELP: Final = """Show a packed row as the model reads it.

Learned tokens are green, context tokens are dim, and a rule precedes each segment. Without colors,
as in a pipe, lines with learned tokens start with a marker.

\b
Examples:
  kedro rows --row 61
  kedro rows --split held_out --row 0 --model llama-3.1-8b | less
  kedro rows --samples 10 --sort chat > samples.md
"""
ROWS_OPTIONS: Final[list[click.Parameter]] = [
    click.Option(["--split"], type=click.Choice(_SPLITS), default="train", show_default=True,
                 help="Split of the rows."),
    click.Option(["--row"], type=int, default=0, show_default=True, metavar="N",
                 help="Index of the row, from 0."),
    click.Option(["--samples"], type=click.IntRange(min=1), metavar="N",
                 help="Instead of a row, a Markdown page with N segments of every document type."),
    click.Option(["--sort", "type_prefix"], default="", metavar="SORT",
                 help="Type of the samples, the prefix of their ids, such as commit or chat/why."),
    *_COMMON_OPTIONS,
]  # fmt: skip

AUDIT_HELP: Final = """Show the training documents nearest to a validation or held-out document.

ITEM is the id of a validation or held-out document, or an unambiguous part of one. Without ITEM,
the ids are listed. --removed lists the removed documents, each with the reason and the document it
matches: validation and held-out documents that leak into training, and duplicates in every split.

\b
Examples:
  kedro audit
  kedro audit --removed
  kedro audit file-after-cutoff/src/app.py
  kedro audit commit/1f3a --neighbours 10
"""
AUDIT_OPTIONS: Final[list[click.Parameter]] = [
    click.Argument(["item"], required=False),
    click.Option(["--neighbours", "n_neighbors"], type=click.IntRange(min=1), default=5,
                 show_default=True, metavar="N",
                 help="Number of documents to show, nearest first."),
    click.Option(["--removed"], is_flag=True,
                 help="List the removed leaks and duplicates, with reasons."),
    *_COMMON_OPTIONS,
]  # fmt: skip


def rows(
    open_project: OpenProject,
    *,
    split: str,
    row: int,
    samples: int | None,
    type_prefix: str,
    profile: str | None,
    env: str | None,
) -> None:
    """Print a row, or a page of samples.

    Args:
        open_project: Opens the project for an environment and a profile.
        split: Split of the rows.
        row: Index of the row, from 0.
        samples: Number of segments per document type to print as Markdown instead of the row.
        type_prefix: Document type of the samples; empty for all.
        profile: Profile of the rows.
        env: Configuration environment.

    Raises:
        BlockError: There is no such row, or there are no rows yet.
    """
    # Imported here so that --help does not import torch.
    from the_block_llm.models.base.sources import load_tokenizer  # noqa: PLC0415
    from the_block_llm.pipelines.sequence_build.documents.special_tokens import (  # noqa: PLC0415
        add_domain_tokens,
    )

    project = open_project(env, profile)
    table = ParquetTable(project.folder_of(f"{split}_rows"))
    models = ModelProfiles.model_validate(project.parameters["models"])
    tokenizer = load_tokenizer(resolve_profile(models, project.parameters["model"]))
    if (project.parameters.get("sequence_build") or {}).get("domain_marks"):
        add_domain_tokens(tokenizer)
    if samples is not None:
        with _ignore_broken_pipe():
            for part in sample_page(table, tokenizer, samples, type_prefix, _SAMPLE_SEED):
                click.echo(part)
        return
    console = Console(highlight=False, soft_wrap=True)
    text = render_row(table, row, tokenizer)
    with _ignore_broken_pipe():
        console.print(text if console.color_system else Text(plain_text(text)))
        legend = f"row {row} of {table.num_rows} in {split}: learned green, context dim"
        Console(stderr=True, highlight=False).print(Text(legend, style="dim"))


def audit(
    open_project: OpenProject,
    *,
    item: str | None,
    n_neighbors: int,
    removed: bool,
    profile: str | None,
    env: str | None,
) -> None:
    """Print the training documents most similar to a document, or list document ids.

    Args:
        open_project: Opens the project for an environment and a profile.
        item: Id of a validation or held-out document, or a part of one.
        n_neighbors: Number of documents to print.
        removed: List the removed documents instead, those with ``item`` in their name.
        profile: Profile of the documents.
        env: Configuration environment.

    Raises:
        BlockError: No document or several match, or there are no documents yet.
    """
    project = open_project(env, profile)
    documents = ParquetTable(project.folder_of("documents"))
    removed_documents = _read_removed(project.folder_of("screening"))
    console = Console(highlight=False, soft_wrap=True)
    evaluation_ids = (
        row["document_id"]
        for row in documents.rows(["document_id", "split"])
        if row["split"] != "train"
    )
    with _ignore_broken_pipe():
        if removed:
            _print_removed(console, [doc for doc in removed_documents if (item or "") in doc.name])
            return
        if item is None:
            for document_id in evaluation_ids:
                console.print(document_id, markup=False)
            return
        removed_by_id = {document.document_id: document for document in removed_documents}
        selected = _match_id(item, [*evaluation_ids, *removed_by_id])
        if selected in removed_by_id:
            document = removed_by_id[selected]
            cause = (
                "it duplicates a document of its split"
                if document.reason == "duplicate"
                else "it leaks into training"
            )
            console.print(Text(f"{selected} was removed: {cause}.", style="bold"))
            _print_removed(console, [document])
            return
        console.print(Text(f"Training documents nearest to {selected}:", style="bold"))
        console.print("similarity  jaccard  known lines  document", markup=False)
        for neighbor in nearest_training_documents(documents, selected, n_neighbors):
            console.print(
                f"{neighbor.similarity:10.3f}  {neighbor.jaccard:7.3f}  "
                f"{neighbor.known_line_fraction:11.3f}  {neighbor.document_id}",
                markup=False,
            )


@dataclass(frozen=True)
class _RemovedDocument:
    """A document that was removed as a leak or duplicate."""

    document_id: str
    source: str
    """Path or sha; empty for a duplicate."""
    reason: str
    similarity: float
    match: str
    """The document that it repeats."""

    @property
    def name(self) -> str:
        return f"{self.document_id} ({self.source})" if self.source else self.document_id


def _read_removed(screening: StorageLocation) -> Sequence[_RemovedDocument]:
    # The tables may have been copied without the screening.
    if not screening.exists():
        return ()
    remedy = "Run `kedro run --pipeline=sequence_build` again."
    with stored_data(f"The screening {screening}", remedy):
        stored = json.loads(screening.read_text(encoding="utf-8"))
    found = Screening.from_json(stored)
    leaks = [
        _RemovedDocument(leak.document_id, leak.source, leak.reason, leak.similarity, leak.nearest)
        for leak in found.leaks
    ]
    duplicates = [
        _RemovedDocument(document_id, "", "duplicate", 1.0, original)
        for originals in found.duplicates.values()
        for document_id, original in originals.items()
    ]
    return [*leaks, *duplicates]


def _print_removed(console: Console, documents: Sequence[_RemovedDocument]) -> None:
    console.print("similarity  reason           document (source), and the document it matches")
    for document in documents:
        console.print(
            Text(
                f"{document.similarity:10.3f}  {document.reason:15}  {document.name}\n"
                f"{'':29}{document.match}"
            )
        )


def _match_id(item: str, ids: list[str]) -> str:
    if item in ids:
        return item
    found = [document_id for document_id in ids if item in document_id]
    if len(found) == 1:
        return found[0]
    problem = (
        f"is part of {len(found)} document ids, the first {found[0]}"
        if found
        else "is not part of any document id"
    )
    raise ParameterError(f"{item!r} {problem}. Give a full id; `kedro audit` lists them.")


@contextlib.contextmanager
def _ignore_broken_pipe() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe (kedro rows | head).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
