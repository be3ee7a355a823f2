"""Commits and documents of sequence_build."""

from datetime import UTC, datetime
from typing import Any, Final

from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment
from the_block_llm.pipelines.sequence_build.documents.files import file_header
from the_block_llm.pipelines.sequence_build.history.commits import Commit

AUTHORED_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)


def make_commit(subject: str, body: str = "", **fields: Any) -> Commit:
    """Return a commit with the given message; ``fields`` override the other defaults."""
    values: dict[str, Any] = {
        "sha": "c0ffee00" * 5, "authored_at": AUTHORED_AT, "committed_at": AUTHORED_AT,
        "subject": subject, "body": body, "kind": "other", "is_merge": False, "is_bot": False,
        "reverts": None, "informative": True, "files_changed": 1, "insertions": 3,
        "deletions": 1, "parents": (), **fields,
    }  # fmt: skip
    return Commit(**values)


def make_document(
    kind: Any, source: str, *segments: Segment, split: Any = "train"
) -> RenderedDocument:
    return RenderedDocument(
        f"{kind}/{source}", kind, split, source, AUTHORED_AT, segments, is_checked=True
    )


def make_file_document(text: str, source: str = "a.py", split: Any = "train") -> RenderedDocument:
    """Return a file document: the header as context, the text as target."""
    segments = (file_header(source), Segment(text, train=True))
    return make_document("file", source, *segments, split=split)
