"""Documents of kind ``file``: the snapshot at the cutoff, and what was added after it."""

from datetime import datetime

from the_block_llm.pipelines.sequence_build.code.source_file import SourceFile
from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment
from the_block_llm.pipelines.sequence_build.history.line_normalization import (
    segment_by_line,
    significant_lines,
)
from the_block_llm.schemas import Split


def training_file_document(
    file: SourceFile, split: Split, written_at: datetime
) -> RenderedDocument:
    """Render a file of the training snapshot, all of it a target."""
    return RenderedDocument(
        document_id=f"file/{file.path}",
        kind="file",
        split=split,
        source=file.path,
        authored_at=written_at,
        segments=(file_header(file.path), Segment(file.text, train=True)),
    )


def held_out_file_document(
    file: SourceFile, written_at: datetime, text_at_cutoff: str | None
) -> RenderedDocument:
    """Render a file that was created or changed after the cutoff.

    Args:
        file: The file at the end of the history.
        written_at: Time of its last change.
        text_at_cutoff: Its text at the cutoff, if it existed; only lines that are not in it are
            targets.
    """
    if text_at_cutoff is None:
        body: tuple[Segment, ...] = (Segment(file.text, train=True),)
    else:
        known = significant_lines(text_at_cutoff)
        body = segment_by_line(file.text, lambda line: line not in known)
    return RenderedDocument(
        document_id=f"file-after-cutoff/{file.path}",
        kind="file",
        split="held_out",
        source=file.path,
        authored_at=written_at,
        segments=(file_header(file.path), *body),
    )


def file_header(path: str) -> Segment:
    """Return the context segment that opens a file document."""
    return Segment(f"File {path}:\n\n", train=False)
