"""Documents of the kind ``chat``: questions that the repository itself answers.

No teacher model writes them: an answer is a passage of the documentation, a doc comment, a
commit message or a fact of the file tree, and names the path or commit it comes from.
"""

import random
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Final

from the_block_llm.pipelines.sequence_build.document import Draft, Segment
from the_block_llm.schemas import Split

_LIST_CHARACTERS: Final = 1000  # so that question and answer fit a row of 512 tokens


def chat_document(
    topic: str,
    key: str,
    split: Split,
    source: str,
    written_at: datetime,
    question: str,
    answer: str,
) -> Draft:
    """Make a question and its answer into a document.

    Args:
        topic: What kind of question; part of the id.
        key: With the answer, tells this question from every other.
        split: Side of the cut-off.
        source: Path or sha.
        written_at: When what the answer says was written.
        question: Shown.
        answer: Learned.
    """
    identity = blake2b(f"{split}:{key}:{answer}".encode(), digest_size=8).hexdigest()
    return Draft(
        document_id=f"chat/{topic}/{identity}",
        kind="chat",
        split=split,
        source=source,
        authored_at=written_at,
        # Stripped: chat templates trim what they are given.
        segments=(Segment(question.strip(), train=False), Segment(answer.strip(), train=True)),
    )


def choose_wording(wordings: Sequence[str], key: str, seed: int) -> str:
    """One of several phrasings, always the same for the same key."""
    return random.Random(f"{seed}:{key}").choice(wordings)  # noqa: S311 - nothing secret


def listed(names: Sequence[str], most: int) -> str:
    """Name a few and count the rest.

    >>> listed(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def bulleted(lines: Sequence[str], most: int) -> str:
    r"""Put lines below each other, as many as an answer should hold, and count the rest.

    >>> bulleted(["- a", "- b", "- c"], most=2)
    '- a\n- b\n- 1 more'
    """
    shown: list[str] = []
    for line in lines[:most]:
        if shown and sum(map(len, shown)) + len(line) > _LIST_CHARACTERS:
            break
        shown.append(line)
    left = len(lines) - len(shown)
    return "\n".join([*shown, *([f"- {left} more"] if left else [])])
