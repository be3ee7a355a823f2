"""A document before it is tokenised."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from the_block_llm.schemas import DocumentKind, Split


@dataclass(frozen=True)
class Segment:
    """A stretch of text that is learned, or shown only."""

    text: str
    train: bool


@dataclass(frozen=True)
class Draft:
    """One text for the model.

    A ``file`` or ``commit`` opens with a segment that is shown only: it says what follows and
    is repeated wherever the document goes on in another row. A ``chat`` is two segments, the
    question and the answer.
    """

    document_id: str
    kind: DocumentKind
    split: Split
    source: str
    """Path, or sha of the commit."""
    authored_at: datetime
    segments: tuple[Segment, ...]

    @property
    def has_target(self) -> bool:
        return any(segment.train and segment.text for segment in self.segments)


@dataclass(frozen=True)
class Dropped:
    """Something that no document was made of, and why."""

    reason: Literal["merge", "nothing_said_or_shown", "nothing_new", "answer_too_long"]
    source: str
