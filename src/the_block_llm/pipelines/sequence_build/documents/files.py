"""Documents of the kind ``file``: the snapshot at the cut-off, and what is new after it."""

from datetime import datetime

from the_block_llm.pipelines.sequence_build.code.source_file import SnapshotFile
from the_block_llm.pipelines.sequence_build.document import Draft, Segment
from the_block_llm.pipelines.sequence_build.history.change_index import HeldBack
from the_block_llm.pipelines.sequence_build.history.line_normalization import (
    lines_of,
    split_by_line,
)
from the_block_llm.schemas import Split


def training_file(file: SnapshotFile, written_at: datetime, held_back: HeldBack) -> Draft:
    """Render a file of the training snapshot.

    A file that a validation commit created belongs to validation, whole; of any other, the
    lines that validation commits added are shown and not learned.
    """
    split: Split = "validation" if file.path in held_back.created else "train"
    added = held_back.added.get(file.path, frozenset())
    if split == "validation" or not added:
        body: tuple[Segment, ...] = (Segment(file.text, train=True),)
    else:
        body = split_by_line(file.text, lambda line: line not in added)
    return Draft(
        document_id=f"file/{file.path}",
        kind="file",
        split=split,
        source=file.path,
        authored_at=written_at,
        segments=(head(file.path), *body),
    )


def held_out_file(file: SnapshotFile, written_at: datetime, before: str | None) -> Draft:
    """Render a file that is new, or was changed, after the cut-off.

    Args:
        file: As it stands at the end of the history.
        written_at: When it got there.
        before: Its text at the cut-off, if it existed; only lines that it lacks are targets.
    """
    if before is None:
        body: tuple[Segment, ...] = (Segment(file.text, train=True),)
    else:
        known = lines_of(before)
        body = split_by_line(file.text, lambda line: line not in known)
    return Draft(
        document_id=f"file-after-cutoff/{file.path}",
        kind="file",
        split="held_out",
        source=file.path,
        authored_at=written_at,
        segments=(head(file.path), *body),
    )


def head(path: str) -> Segment:
    """The line that opens a file; also what a question about a file quotes."""
    return Segment(f"File {path}:\n\n", train=False)
