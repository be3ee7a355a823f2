"""Held-out text that training has seen after all.

The cut-off keeps later commits apart, but a text can come back: a reverted file, a vendored
copy, a commit picked from another branch. Such a document measures memory, not knowledge.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from the_block_llm.datasets.parquet_table import ParquetTable

_LEAST_CHARACTERS: Final = 12  # shorter lines stand in every file
_FEWEST_LINES: Final = 3
SEEN_SHARE: Final = 0.9
NEW_SHARE: Final = 0.1
"""Text of which training holds fewer lines than this is new line by line."""


@dataclass(frozen=True)
class Familiar:
    """How much of the held-out material also stands in training documents, from 0 to 1."""

    by_document: Mapping[str, float]
    by_source: Mapping[str, float]
    """By path or sha, of the least familiar of its documents."""


def familiar_held_out(documents: ParquetTable) -> Familiar:
    """Look all held-out documents up in the training documents."""
    source_of = {
        row["document_id"]: row["source"]
        for row in documents.rows(["document_id", "source", "split"])
        if row["split"] == "held_out"
    }
    by_document = familiar_shares(documents, source_of)
    by_source: dict[str, float] = {}
    for document_id, source in source_of.items():
        share = by_document.get(document_id, 0.0)
        by_source[source] = min(share, by_source.get(source, share))
    return Familiar(by_document, by_source)


def familiar_shares(documents: ParquetTable, wanted: Iterable[str]) -> dict[str, float]:
    """How much of each wanted document's learned lines also stands in training documents.

    Args:
        documents: Table of the schema ``DOCUMENTS``.
        wanted: Ids of held-out documents.

    Returns:
        By id, a share from 0 to 1; documents of fewer than three telling lines are left out.
    """
    ids = set(wanted)
    columns = ["document_id", "split", "segments"]
    lines_of = {
        row["document_id"]: _lines(row)
        for row in documents.rows(columns)
        if row["document_id"] in ids
    }
    sought = set().union(*lines_of.values())
    seen: set[str] = set()
    for row in documents.rows(columns):
        if row["split"] == "train":
            seen |= sought & _lines(row)
    return {
        document_id: len(lines & seen) / len(lines)
        for document_id, lines in lines_of.items()
        if len(lines) >= _FEWEST_LINES
    }


def _lines(row: Mapping[str, Any]) -> set[str]:
    """Lines that are learned, or measured, without what marks them in a patch."""
    return {
        bare
        for segment in row["segments"]
        if segment["train"]
        for line in segment["text"].splitlines()
        if len(bare := line.lstrip("+- ").strip()) >= _LEAST_CHARACTERS
    }
