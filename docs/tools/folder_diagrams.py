"""The pictures at the head of each pipeline's page: its folders, and the way of a row through them.

Run ``python -m docs.tools.folder_diagrams`` after a module was added or moved; tests/docs compares
the files with what this module draws. Sentences are the first line of each ``__init__.py``, module
names are those on disk, so a picture cannot show a folder that is not there.
"""

import ast
import textwrap
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = ROOT / "src/the_block_llm/pipelines"
IMAGES = ROOT / "docs/images"

_WIDTH: Final = 860
_FOLDER_X, _FOLDER_WIDTH = 20, 820
_TEXT_X, _MODULES_X = 36, 476
_LINE: Final = 17
_ARROW: Final = 30
_DATA_HEIGHT: Final = 34
_PAGE: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">
<title>Folders of {pipeline} in the order in which a row passes through them</title>
<style>
text {{ font-family: system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; fill: #1f2933; }}
.name {{ font-size: 15px; font-weight: 600; }}
.says {{ font-size: 12.5px; }}
.modules {{ font-size: 12px; font-family: ui-monospace, Menlo, Consolas, monospace; fill: #52606d; }}
.passes {{ font-size: 12px; fill: #0072b2; }}
.data {{ font-size: 13px; font-weight: 600; }}
.table {{ fill: #e8f1f8; stroke: #0072b2; }}
.folder {{ fill: #f7f9fb; stroke: #9aa5b1; }}
.beside {{ fill: #f7f9fb; stroke: #9aa5b1; stroke-dasharray: 5 4; }}
.arrow {{ fill: none; stroke: #0072b2; stroke-width: 1.5; }}
</style>
<defs><marker id="head" markerWidth="8" markerHeight="8" refX="4" refY="4" orient="auto">
<path d="M0,0 L8,4 L0,8 z" fill="#0072b2"/></marker></defs>
<rect width="{width}" height="{height}" fill="#ffffff"/>
{body}
</svg>
"""  # noqa: E501


class Step(NamedTuple):
    """A folder on the way of a row, and what it hands to the next one."""

    folder: str
    hands_on: str


class Diagram(NamedTuple):
    """One picture."""

    reads: str
    steps: tuple[Step, ...]
    writes: str
    beside: tuple[str, ...] = ()
    """Folders that every step uses; no row passes through them."""


DIAGRAMS: Final = {
    "git_ingest": Diagram(
        "a repository: work tree, bare repository, bundle or URL",
        (
            Step("sources", "one local repository, its ref and its cut-off"),
            Step(
                "sharding",
                "ranges of commits, and trees, for each worker; finished shards are reused",
            ),
            Step("git", "raw commits, diffs, trees and blobs"),
            Step("history", "one row for each commit, one for each changed file"),
            Step("snapshot", "one row for each file at the cut-off and at the ref"),
            Step("filters", "the row with its text, or without it and with its drop reason"),
            Step("redaction", "the row with secrets masked and authors as pseudonyms"),
        ),
        "tables commits · file_changes · snapshot_files",
    ),
    "sequence_build": Diagram(
        "tables commits · file_changes · snapshot_files",
        (
            Step("history", "each commit with its split: train, validation or held_out"),
            Step("code", "declarations, docstrings, imports and boundaries of each file"),
            Step("documents", "documents: files, commits, chats"),
            Step("dedup", "documents that neither repeat nor leak held-out text"),
            Step("tokenization", "the table documents, with token ids"),
            Step("packing", "rows of context_tokens, with labels and segment lengths"),
        ),
        "tables documents · train · validation · held_out",
        ("inspect",),
    ),
    "qlora_train": Diagram(
        "tables train · validation, and the profile's base model",
        (
            Step("data", "the dataset, the order of rows, the number of epochs"),
            Step("preflight", "a plan that fits memory, disk and time"),
            Step("launch", "one training process for each GPU"),
            Step("loop", "optimizer steps, validation losses"),
            Step(
                "checkpoint",
                "a checkpoint every save_steps; at the end the adapter and its manifest",
            ),
        ),
        "an adapter in data/06_models/<profile>, training_metrics.json",
        ("registry", "runtime"),
    ),
    "behavioral_eval": Diagram(
        "tables held_out · documents, the adapter, the probe suites",
        (
            Step("held_out", "held-out rows, passages for retrieval"),
            Step("tasks", "multiple-choice items made from later commits"),
            Step("probes", "questions, and what a good answer must contain"),
            Step("runner", "each item scored or answered in each arm; results are cached"),
            Step("analysis", "paired differences with intervals, negative controls, the verdict"),
            Step("report", "cards, forest plot, trend"),
        ),
        "behavioral_report.json · behavioral_report.html",
    ),
}


def draw(pipeline: str) -> str:
    """Draw the folders of ``pipeline`` as an SVG image."""
    diagram = DIAGRAMS[pipeline]
    parts = _data(10, diagram.reads)
    y = 10 + _DATA_HEIGHT
    for step in diagram.steps:
        parts.append(_arrow(y))
        folder_box, height = _folder_box(y + _ARROW, pipeline, step.folder)
        parts += folder_box
        y += _ARROW + height
        parts.append(_text("passes", _TEXT_X + 24, y + 20, escape(step.hands_on)))
    parts.append(_arrow(y))
    parts += _data(y + _ARROW, diagram.writes)
    y += _ARROW + _DATA_HEIGHT
    for name in diagram.beside:
        folder_box, height = _folder_box(y + 14, pipeline, name, dashed=True)
        parts += folder_box
        y += 14 + height
    return _PAGE.format(width=_WIDTH, height=y + 12, pipeline=pipeline, body="\n".join(parts))


def write_all() -> None:
    """Write every picture into docs/images."""
    for name in DIAGRAMS:
        path_of(name).write_text(draw(name), encoding="utf-8")


def path_of(pipeline: str) -> Path:
    """Where the picture of ``pipeline`` is kept."""
    return IMAGES / f"{pipeline}_folders.svg"


def folders_of(pipeline: str) -> set[str]:
    """Names of the folders of ``pipeline`` that hold modules."""
    return {path.parent.name for path in (PIPELINES / pipeline).glob("*/__init__.py")}


def _text(kind: str, x: int, y: int, content: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{content}</text>'


def _box(kind: str, y: int, height: int, radius: int) -> str:
    size = f'width="{_FOLDER_WIDTH}" height="{height}" rx="{radius}"'
    return f'<rect class="{kind}" x="{_FOLDER_X}" y="{y}" {size}/>'


def _data(y: int, content: str) -> list[str]:
    return [
        _box("table", y, _DATA_HEIGHT, _DATA_HEIGHT // 2),
        _text("data", _TEXT_X, y + 22, escape(content)),
    ]


def _arrow(y: int) -> str:
    x = _TEXT_X + 8
    return f'<path class="arrow" d="M{x},{y + 2} V{y + _ARROW - 6}" marker-end="url(#head)"/>'


def _folder_box(y: int, pipeline: str, name: str, *, dashed: bool = False) -> tuple[list[str], int]:
    folder = PIPELINES / pipeline / name
    source = (folder / "__init__.py").read_text(encoding="utf-8")
    sentence = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].replace("`", "")
    says = textwrap.wrap(sentence, 62)
    modules = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    listed = textwrap.wrap(" · ".join(modules), 48)
    height = 18 + _LINE * max(1 + len(says), len(listed))
    first = y + 22
    return [
        _box("beside" if dashed else "folder", y, height, 6),
        _text("name", _TEXT_X, first, f"{escape(name)}/"),
        *(_text("says", _TEXT_X, first + _LINE * n, escape(t)) for n, t in enumerate(says, 1)),
        *(_text("modules", _MODULES_X, first + _LINE * n, t) for n, t in enumerate(listed)),
    ], height


if __name__ == "__main__":
    write_all()
