"""Search for the training documents most similar to a validation or held-out document."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.sequence_build.dedup.shingling import extract_features
from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment

_COLUMNS = ["document_id", "kind", "split", "source", "authored_at", "segments"]


@dataclass(frozen=True)
class Neighbor:
    """A training document and its similarity to the given document."""

    document_id: str
    jaccard: float
    """Exact Jaccard index of their sets of three-word shingles."""
    known_line_fraction: float
    """Fraction of the given document's new lines that this one contains verbatim."""

    @property
    def similarity(self) -> float:
        return max(self.jaccard, self.known_line_fraction)


def nearest_training_documents(
    documents: ParquetTable, document_id: str, n_neighbors: int = 5
) -> list[Neighbor]:
    """Compare a document with all documents of earlier splits.

    Args:
        documents: The table ``documents``.
        document_id: Id of a validation or held-out document.
        n_neighbors: Number of documents to return, most similar first.

    Raises:
        ParameterError: There is no such document, or it is a training document.
    """
    matches = (
        _document(row) for row in documents.rows(_COLUMNS) if row["document_id"] == document_id
    )
    query = next(matches, None)
    if query is None or query.split == "train":
        problem = "is a training document" if query else "is not in the table"
        raise ParameterError(
            f"The document {document_id} {problem} ({documents.folder}). Name one whose split is "
            "validation or held_out."
        )
    query_features = extract_features(query)
    query_shingles = frozenset(query_features.shingles)
    earlier = ("train", "validation") if query.split == "held_out" else ("train",)
    found: list[tuple[float, str, Neighbor]] = []
    for row in documents.rows(_COLUMNS):
        if row["split"] not in earlier:
            continue
        features = extract_features(_document(row))
        shingles = frozenset(features.shingles)
        n_union = len(query_shingles | shingles)
        n_known = len(query_features.new_lines & features.lines)
        neighbor = Neighbor(
            row["document_id"],
            round(len(query_shingles & shingles) / n_union, 3) if n_union else 0.0,
            round(n_known / max(1, len(query_features.new_lines)), 3),
        )
        heapq.heappush(found, (neighbor.similarity, neighbor.document_id, neighbor))
        if len(found) > n_neighbors:
            heapq.heappop(found)
    return [neighbor for _, _, neighbor in sorted(found, reverse=True)]


def _document(row: Mapping[str, Any]) -> RenderedDocument:
    segments = tuple(Segment(**segment) for segment in row["segments"])
    return RenderedDocument(**{**row, "segments": segments})
