"""``kedro rows`` and ``kedro audit``: see what is trained, and what comes nearest to a text."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from the_block_llm.datasets.object_store import Place
from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.datasets.project import OpenProject
from the_block_llm.errors import ParameterError
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.sequence_build.audit import nearest_training_documents
from the_block_llm.pipelines.sequence_build.leaks import Leak
from the_block_llm.pipelines.sequence_build.row_view import marked_lines, show_row
from the_block_llm.pipelines.sequence_build.samples import sample_page
from the_block_llm.pipelines.sequence_build.screening import Screening

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
only one. Without ITEM, the ids are listed. Documents that went because training says the same
already are listed by --removed, each with the reason and what gave it away.

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
                 help="List what was held back and had to go, and why."),
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
    from the_block_llm.models.base_models import load_tokenizer  # noqa: PLC0415
    from the_block_llm.pipelines.sequence_build.domain_marks import (  # noqa: PLC0415
        add_domain_marks,
    )

    project = open_project(env, profile)
    table = ParquetParts(project.folder_of(f"{split}_rows"))
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
    documents = ParquetParts(project.folder_of("documents"))
    leaks = _leaks(project.folder_of("screening"))
    console = Console(highlight=False, soft_wrap=True)
    held_back = (
        row["document_id"]
        for row in documents.rows(["document_id", "split"])
        if row["split"] != "train"
    )
    with _reader_may_leave():
        if removed:
            _print_removed(console, [leak for leak in leaks if (item or "") in leak.document_id])
            return
        if item is None:
            for document_id in held_back:
                console.print(document_id, markup=False)
            return
        gone = {leak.document_id: leak for leak in leaks}
        wanted = _the_one(item, [*held_back, *gone])
        if wanted in gone:
            console.print(Text(f"{wanted} was removed: training says the same.", style="bold"))
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


def _leaks(screening: Place) -> Sequence[Leak]:
    # The tables may have been brought here without it.
    if not screening.exists():
        return ()
    return Screening.from_json(json.loads(screening.read_text(encoding="utf-8"))).leaks


def _print_removed(console: Console, leaks: Sequence[Leak]) -> None:
    console.print("similarity  reason           document (about), and what gave it away")
    for leak in leaks:
        console.print(
            Text(
                f"{leak.similarity:10.3f}  {leak.reason:15}  {leak.document_id} ({leak.source})\n"
                f"{'':29}{leak.nearest}"
            )
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
