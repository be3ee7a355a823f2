"""Documents of the kind ``chat``: questions that the repository itself answers.

No teacher model writes them: an answer is a passage of the documentation, a doc comment or a
commit message, and names the path or commit it comes from.
"""

import random
from collections.abc import Iterator, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Final

from the_block_llm.pipelines.sequence_build.commit_documents import FileChange
from the_block_llm.pipelines.sequence_build.descriptions import Description
from the_block_llm.pipelines.sequence_build.drafts import Draft, Dropped, Segment
from the_block_llm.pipelines.sequence_build.history import Commit
from the_block_llm.schemas import Split

_PATHS_NAMED: Final = 3
_MOST_CHARACTERS: Final = 1600  # of a message; a longer one is learned with its patch only
_WHY: Final = (
    "What did commit {sha} change, and why?",
    "Why was {path} changed in commit {sha}?",
    "Explain the change that commit {sha} made to {path}.",
)
_WHAT_FOR: Final = {
    "file": (
        "What is {path} for?",
        "What does the file {path} contain, and what is its purpose?",
        "Describe the role of {path} in this project.",
    ),
    "section": (
        "What does {path} say about {name!r}?",
        "Summarise the section {name!r} of {path}.",
        "What does the documentation say under {name!r}?",
    ),
    "definition": (
        "What is {name} in {path} for?",
        "What does {name} do?",
        "Explain {name} of {path}.",
    ),
}


def commit_chat(
    commit: Commit, split: Split, changes: Sequence[FileChange], seed: int
) -> Draft | Dropped | None:
    """Ask why a change was made; none where its message does not say."""
    if not commit.informative or commit.is_merge or commit.is_bot or not changes:
        return None
    paths = sorted(change.path for change in changes)
    named = ", ".join(paths[:_PATHS_NAMED])
    more = len(paths) - _PATHS_NAMED
    files = f"{named} and {more} more files" if more > 0 else named
    message = f"{commit.subject.strip()}\n\n{commit.body.strip()}".strip()
    if len(message) > _MOST_CHARACTERS:
        return Dropped("answer_too_long", commit.sha)
    answer = (
        f"Commit {commit.short_sha} of {commit.authored_at:%Y-%m-%d} ({commit.kind}): {message}"
        f"\n\nIt changed {files} (+{commit.insertions}, -{commit.deletions} lines)."
    )
    question = _choose(_WHY, commit.sha, seed).format(sha=commit.short_sha, path=paths[0])
    return _chat("why", commit.sha, split, commit.sha, commit.authored_at, question, answer)


def description_chats(
    descriptions: Sequence[Description], path: str, split: Split, written_at: datetime, seed: int
) -> Iterator[Draft]:
    """Ask what the parts of a file are for."""
    for description in descriptions:
        key = f"{description.of}:{path}:{description.name}"
        wording = _choose(_WHAT_FOR[description.of], key, seed)
        question = wording.format(path=path, name=description.name)
        subject = path if description.of == "file" else f"{description.name} ({path})"
        answer = f"{subject}: {description.text}"
        yield _chat(description.of, key, split, path, written_at, question, answer)


def _chat(
    topic: str,
    key: str,
    split: Split,
    source: str,
    written_at: datetime,
    question: str,
    answer: str,
) -> Draft:
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


def _choose(wordings: Sequence[str], key: str, seed: int) -> str:
    return random.Random(f"{seed}:{key}").choice(wordings)  # noqa: S311 - nothing secret
