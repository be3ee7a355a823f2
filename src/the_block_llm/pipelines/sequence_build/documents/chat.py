"""Documents of kind ``chat``: questions that the repository itself answers.

No teacher model is involved: an answer is a documentation section, a docstring, a commit message
or a fact about the file tree, and names the path or commit that it comes from.
"""

import random
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Final

from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment
from the_block_llm.schemas import Split

TEMPLATE_WORDS: Final = frozenset({
    "Commit", "Commits", "Files", "Merge", "What", "all", "and", "build", "changed", "chore",
    "commit", "commits", "created", "defined", "defines", "deleted", "dev", "docs", "feature",
    "files", "first", "fix", "holds", "lines", "merge", "more", "moved", "newest", "null", "other",
    "part", "perf", "refactor", "revert", "say", "test", "them", "together", "used", "uses", "was",
    "with",
})  # fmt: skip
"""Words of the targets of documents that do not come from the repository."""
_MAX_LIST_CHARACTERS: Final = 1000  # so that question and answer fit a row of 512 tokens


def chat_document(
    topic: str,
    key: str,
    split: Split,
    source: str,
    written_at: datetime,
    question: str,
    answer: str,
) -> RenderedDocument:
    """Render a question and its answer as a document.

    Args:
        topic: Type of question; part of the document id.
        key: Together with the answer, identifies the question.
        split: Split of the document.
        source: Path or sha that the answer comes from.
        written_at: When the source of the answer was written.
        question: Context.
        answer: Target.
    """
    identity = blake2b(f"{split}:{key}:{answer}".encode(), digest_size=8).hexdigest()
    return RenderedDocument(
        document_id=f"chat/{topic}/{identity}",
        kind="chat",
        split=split,
        source=source,
        authored_at=written_at,
        # Chat templates strip the content of messages.
        segments=(Segment(question.strip(), train=False), Segment(answer.strip(), train=True)),
    )


def choose_template(templates: Sequence[str], key: str, seed: int) -> str:
    """Choose one of several phrasings, deterministically by key."""
    return random.Random(f"{seed}:{key}").choice(templates)  # noqa: S311 - not for security


def join_names(names: Sequence[str], limit: int) -> str:
    """Join up to ``limit`` names and count the rest.

    >>> join_names(["a", "b", "c", "d"], limit=2)
    'a, b and 2 more'
    """
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def bulleted_list(lines: Sequence[str], limit: int) -> str:
    r"""Join up to ``limit`` lines, fewer if they are too long for one answer, and count the rest.

    >>> bulleted_list(["- a", "- b", "- c"], limit=2)
    '- a\n- b\n- 1 more'
    """
    shown: list[str] = []
    for line in lines[:limit]:
        if shown and sum(map(len, shown)) + len(line) > _MAX_LIST_CHARACTERS:
            break
        shown.append(line)
    left = len(lines) - len(shown)
    return "\n".join([*shown, *([f"- {left} more"] if left else [])])
