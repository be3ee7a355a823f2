"""``kedro rows`` and ``kedro audit``: see what is trained, and what comes nearest to a text."""

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
from the_block_llm.errors import ParameterError
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.sequence_build.dedup.screening import Screening
from the_block_llm.pipelines.sequence_build.inspect.nearest import nearest_training_documents
from the_block_llm.pipelines.sequence_build.inspect.row_view import marked_lines, show_row
from the_block_llm.pipelines.sequence_build.inspect.samples import sample_page

_SPLITS: Final = ("train", "validation", "held_out")
_SAMPLE_SEED: Final = 0  # the same rows give the same page
_PROFILE: Final[list[click.Parameter]] = [
    click.Option(
        ["--model", "profile"],
        metavar="NAME",
        help="Profile of the rows; by default the chosen one.",
    ),
    click.Option(["--env", "-e"], metavar="ENV", help="Configuration environment."),
]

ROWS_HELP: Final = """Show a packed row as the model reads it.

What is learned is green, what is shown only is dim; a rule opens each segment. Where there are
no colours, in a pipe, lines with learned tokens begin with a mark.

\b
Examples:
  kedro rows --row 61
  kedro rows --split held_out --row 0 --model llama-3.1-8b | less
  kedro rows --samples 10 --sort chat > samples.md
"""
ROWS_OPTIONS: Final[list[click.Parameter]] = [
    click.Option(["--split"], type=click.Choice(_SPLITS), default="train", show_default=True,
                 help="Side of the cut-off."),
    click.Option(["--row"], type=int, default=0, show_default=True, metavar="N",
                 help="Number of the row, from 0."),
    click.Option(["--samples"], type=click.IntRange(min=1), metavar="N",
                 help="Instead of a row, a Markdown page of N segments of every sort."),
    click.Option(["--sort"], default="", metavar="SORT",
                 help="Of the samples: how their ids begin, such as commit or chat/why."),
    *_PROFILE,
]  # fmt: skip

AUDIT_HELP: Final = """Name what training says nearest to a held-back document.

ITEM is the id of a document of validation or held-out; part of an id will do where it is the
only one. Without ITEM, the ids are listed. --removed lists the documents that went, each with the
reason and what gave it away: held-back ones because training says the same already, and of every
side duplicates, with the document that stays and says it.

\b
Examples:
  kedro audit
  kedro audit --removed
  kedro audit file-after-cutoff/src/app.py
  kedro audit commit/1f3a --neighbours 10
"""
AUDIT_OPTIONS: Final[list[click.Parameter]] = [
    click.Argument(["item"], required=False),
    click.Option(["--neighbours"], type=click.IntRange(min=1), default=5, show_default=True,
                 metavar="N", help="How many to name, nearest first."),
    click.Option(["--removed"], is_flag=True,
                 help="List what had to go: leaks and duplicates, and why."),
    *_PROFILE,
]  # fmt: skip


def rows(
    open_project: OpenProject,
    *,
    split: str,
    row: int,
    samples: int | None,
    sort: str,
    profile: str | None,
    env: str | None,
) -> None:
    """Print one row.

    Args:
        open_project: Gives the project, for an environment and a profile.
        split: Side of the cut-off.
        row: From 0.
        samples: Instead of the row, so many segments of every sort, as Markdown.
        sort: Of the samples; empty for all.
        profile: Whose rows.
        env: Configuration environment.

    Raises:
        BlockError: There is no such row, or no rows yet.
    """
    # Here, so that --help need not wait for torch.
    from the_block_llm.models.base.sources import load_tokenizer  # noqa: PLC0415
    from the_block_llm.pipelines.sequence_build.documents.special_tokens import (  # noqa: PLC0415
        add_domain_marks,
    )

    project = open_project(env, profile)
    table = ParquetTable(project.folder_of(f"{split}_rows"))
    models = ModelProfiles.model_validate(project.parameters["models"])
    tokenizer = load_tokenizer(resolve_profile(models, project.parameters["model"]))
    if (project.parameters.get("sequence_build") or {}).get("domain_marks"):
        add_domain_marks(tokenizer)
    if samples is not None:
        with _reader_may_leave():
            for part in sample_page(table, tokenizer, samples, sort, _SAMPLE_SEED):
                click.echo(part)
        return
    console = Console(highlight=False, soft_wrap=True)
    text = show_row(table, row, tokenizer)
    with _reader_may_leave():
        console.print(text if console.color_system else Text(marked_lines(text)))
        notes = f"row {row} of {table.num_rows} in {split}: green is learned, dim is shown only"
        Console(stderr=True, highlight=False).print(Text(notes, style="dim"))


def audit(
    open_project: OpenProject,
    *,
    item: str | None,
    neighbours: int,
    removed: bool,
    profile: str | None,
    env: str | None,
) -> None:
    """Print what training says nearest to a held-back document, or list those there are.

    Args:
        open_project: Gives the project, for an environment and a profile.
        item: Id, or a part of one.
        neighbours: How many to name.
        removed: List what had to go instead; of these, only those with ``item`` in the id.
        profile: Whose documents.
        env: Configuration environment.

    Raises:
        BlockError: No document, or several, are meant; or there are none yet.
    """
    project = open_project(env, profile)
    documents = ParquetTable(project.folder_of("documents"))
    removed_ones = _removed(project.folder_of("screening"))
    console = Console(highlight=False, soft_wrap=True)
    held_back = (
        row["document_id"]
        for row in documents.rows(["document_id", "split"])
        if row["split"] != "train"
    )
    with _reader_may_leave():
        if removed:
            _print_removed(console, [one for one in removed_ones if (item or "") in one.name])
            return
        if item is None:
            for document_id in held_back:
                console.print(document_id, markup=False)
            return
        gone = {one.document_id: one for one in removed_ones}
        wanted = _the_one(item, [*held_back, *gone])
        if wanted in gone:
            says = "another" if gone[wanted].reason == "duplicate" else "training"
            console.print(Text(f"{wanted} was removed: {says} says the same.", style="bold"))
            _print_removed(console, [gone[wanted]])
            return
        console.print(Text(f"Nearest to {wanted} in training:", style="bold"))
        console.print("similarity  wording  known lines  document", markup=False)
        for near in nearest_training_documents(documents, wanted, neighbours):
            console.print(
                f"{near.similarity:10.3f}  {near.likeness:7.3f}  {near.known_lines:11.3f}  "
                f"{near.document_id}",
                markup=False,
            )


@dataclass(frozen=True)
class _Removed:
    """A document that had to go."""

    document_id: str
    about: str
    reason: str
    similarity: float
    nearest: str

    @property
    def name(self) -> str:
        return f"{self.document_id} ({self.about})" if self.about else self.document_id


def _removed(screening: StorageLocation) -> Sequence[_Removed]:
    # The tables may have been brought here without it.
    if not screening.exists():
        return ()
    found = Screening.from_json(json.loads(screening.read_text(encoding="utf-8")))
    leaks = [
        _Removed(leak.document_id, leak.source, leak.reason, leak.similarity, leak.nearest)
        for leak in found.leaks
    ]
    duplicates = [
        _Removed(document_id, "", "duplicate", 1.0, kept)
        for twice in found.duplicates.values()
        for document_id, kept in twice.items()
    ]
    return [*leaks, *duplicates]


def _print_removed(console: Console, removed: Sequence[_Removed]) -> None:
    console.print("similarity  reason           document (about), and what gave it away")
    for one in removed:
        console.print(
            Text(f"{one.similarity:10.3f}  {one.reason:15}  {one.name}\n{'':29}{one.nearest}")
        )


def _the_one(item: str, ids: list[str]) -> str:
    if item in ids:
        return item
    found = [document_id for document_id in ids if item in document_id]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} held-back documents, the first {found[0]}" if found else "none"
    raise ParameterError(
        f"{item!r} is in the id of {what}. Name one whole; `kedro audit` lists them."
    )


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (kedro rows | head).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
