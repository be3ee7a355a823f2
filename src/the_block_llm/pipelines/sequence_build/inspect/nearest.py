"""For a held-back document, what training says that comes nearest to it."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.sequence_build.dedup.shingling import extract_features
from the_block_llm.pipelines.sequence_build.document import Draft, Segment

_COLUMNS = ["document_id", "kind", "split", "source", "authored_at", "segments"]


@dataclass(frozen=True)
class Neighbour:
    """A training document, and how much of the held-back one it says already."""

    document_id: str
    likeness: float
    """Jaccard index of their runs of three words, computed exactly."""
    known_lines: float
    """Share of the held-back document's own lines that this one holds verbatim."""

    @property
    def similarity(self) -> float:
        return max(self.likeness, self.known_lines)


def nearest_training_documents(
    documents: ParquetTable, document_id: str, n_neighbours: int = 5
) -> list[Neighbour]:
    """Compare one document with everything on an earlier side of the cut-off.

    Args:
        documents: The table ``documents``.
        document_id: Of a validation or held-out document.
        n_neighbours: How many to name, nearest first.

    Raises:
        ParameterError: There is no such document, or it is trained on.
    """
    named = (_draft(row) for row in documents.rows(_COLUMNS) if row["document_id"] == document_id)
    wanted = next(named, None)
    if wanted is None or wanted.split == "train":
        what = "is trained on" if wanted else "is not in the table"
        raise ParameterError(
            f"The document {document_id} {what} ({documents.folder}). Name one whose split is "
            "validation or held_out."
        )
    own = extract_features(wanted)
    shingles = frozenset(own.shingles)
    earlier = ("train", "validation") if wanted.split == "held_out" else ("train",)
    found: list[tuple[float, str, Neighbour]] = []
    for row in documents.rows(_COLUMNS):
        if row["split"] not in earlier:
            continue
        other = extract_features(_draft(row))
        theirs = frozenset(other.shingles)
        either = len(shingles | theirs)
        neighbour = Neighbour(
            row["document_id"],
            round(len(shingles & theirs) / either, 3) if either else 0.0,
            round(len(own.new_lines & other.lines) / max(1, len(own.new_lines)), 3),
        )
        heapq.heappush(found, (neighbour.similarity, neighbour.document_id, neighbour))
        if len(found) > n_neighbours:
            heapq.heappop(found)
    return [neighbour for _, _, neighbour in sorted(found, reverse=True)]


def _draft(row: Mapping[str, Any]) -> Draft:
    segments = tuple(Segment(**segment) for segment in row["segments"])
    return Draft(**{**row, "segments": segments})
