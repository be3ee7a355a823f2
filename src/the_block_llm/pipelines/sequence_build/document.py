"""A document before it is tokenised."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from the_block_llm.schemas import DocumentKind, Split

IN_THE_MIDDLE: Final = "file-in-the-middle/"
"""How the ids of documents begin whose middle comes last."""


@dataclass(frozen=True)
class Segment:
    """A stretch of text that is learned, or shown only."""

    text: str
    train: bool
    shown_before: tuple[str, ...] = ()
    """Marks of the tokenizer's own, put before the text and never learned."""
    before: tuple[str, ...] = ()
    """The same, and learned where the text is."""
    after: tuple[str, ...] = ()
    """Marks that close the text, learned where the text is."""


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
    instead: "Draft | None" = None
    """What to use where this one is longer than a row and must not be cut."""
    completes: bool = False
    """What is learned goes on with what is shown: after another text it says another thing."""

    @property
    def shown(self) -> str:
        return "".join(segment.text for segment in self.segments if not segment.train)

    @property
    def has_target(self) -> bool:
        return any(segment.train and segment.text for segment in self.segments)


def writable(draft: Draft, unknown_bytes: bytes = b"") -> Draft:
    """The draft, with stand-ins for characters that cannot be learned.

    Args:
        draft: Any document.
        unknown_bytes: Bytes that the tokenizer has no token for and would leave out unsaid;
            characters that need one become U+FFFD. SmolLM2 lacks six control characters and
            two of the unassigned planes of Unicode.

    Returns:
        The same draft where nothing has to change. Lone surrogates, which UTF-8 has no bytes
        for, become "?".
    """
    segments = tuple(
        replace(segment, text=text)
        if (text := _writable(segment.text, unknown_bytes)) is not segment.text
        else segment
        for segment in draft.segments
    )
    unchanged = all(new is old for new, old in zip(segments, draft.segments, strict=True))
    return draft if unchanged else replace(draft, segments=segments)


def _writable(text: str, unknown_bytes: bytes) -> str:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = text.encode(errors="replace")
        text = encoded.decode()
    # One pass in C over every text; characters are looked at in the rare one that needs it.
    if not unknown_bytes or len(encoded.translate(None, unknown_bytes)) == len(encoded):
        return text
    unknown = frozenset(unknown_bytes)
    return "".join("\ufffd" if unknown.intersection(c.encode()) else c for c in text)


def must_stay_whole(kind: str, document_id: str) -> bool:
    """True where a cut would part a question from its answer, or a middle from its sides."""
    return kind == "chat" or document_id.startswith(IN_THE_MIDDLE)


@dataclass(frozen=True)
class Dropped:
    """Something that no document was made of, and why."""

    reason: Literal[
        "merge", "nothing_said_or_shown", "nothing_new", "fixture", "data_file", "rendered_page"
    ]
    source: str
