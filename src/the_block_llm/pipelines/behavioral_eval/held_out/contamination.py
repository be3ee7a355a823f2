"""Detects contamination: held-out text that also occurs in the training documents.

The cut-off separates commits by time, but the same text can be committed again: a revert, a
vendored copy, a cherry-picked commit. Such a document measures memorization.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from the_block_llm.datasets.parquet_table import ParquetTable

_MIN_CHARACTERS: Final = 12  # shorter lines occur in most files
_MIN_LINES: Final = 3
CONTAMINATED_MIN_OVERLAP: Final = 0.9
"""Text with at least this train overlap is excluded from every comparison."""
NEW_TEXT_MAX_OVERLAP: Final = 0.1
"""Text with a smaller train overlap counts as new."""


@dataclass(frozen=True)
class TrainOverlap:
    """Fraction of held-out lines that also occur in training documents."""

    by_document: Mapping[str, float]
    by_source: Mapping[str, float]
    """By path or commit hash: the minimum over its documents."""


def measure_train_overlap(documents: ParquetTable) -> TrainOverlap:
    """Measure the overlap of all held-out documents with the training documents."""
    source_of = {
        row["document_id"]: row["source"]
        for row in documents.rows(["document_id", "source", "split"])
        if row["split"] == "held_out"
    }
    by_document = train_overlap_by_document(documents, source_of)
    by_source: dict[str, float] = {}
    for document_id, source in source_of.items():
        overlap = by_document.get(document_id, 0.0)
        by_source[source] = min(overlap, by_source.get(source, overlap))
    return TrainOverlap(by_document, by_source)


def train_overlap_by_document(
    documents: ParquetTable, document_ids: Iterable[str]
) -> dict[str, float]:
    """Return the fraction of each document's lines that also occur in training documents.

    Args:
        documents: Table of the schema ``DOCUMENTS``.
        document_ids: Ids of held-out documents.

    Returns:
        Fraction by id. Documents with fewer than three lines of at least 12 characters are
        left out.
    """
    ids = set(document_ids)
    columns = ["document_id", "split", "segments"]
    lines_of = {
        row["document_id"]: _target_lines(row)
        for row in documents.rows(columns)
        if row["document_id"] in ids
    }
    held_out_lines = set().union(*lines_of.values())
    in_training: set[str] = set()
    for row in documents.rows(columns):
        if row["split"] == "train":
            in_training |= held_out_lines & _target_lines(row)
    return {
        document_id: len(lines & in_training) / len(lines)
        for document_id, lines in lines_of.items()
        if len(lines) >= _MIN_LINES
    }


def _target_lines(row: Mapping[str, Any]) -> set[str]:
    """Return the lines with loss that are long enough, without patch markers and indentation."""
    return {
        stripped
        for segment in row["segments"]
        if segment["train"]
        for line in segment["text"].splitlines()
        if len(stripped := line.lstrip("+- ").strip()) >= _MIN_CHARACTERS
    }
