"""Questions about files: what a part is for, where it lives, what depends on what."""

from collections.abc import Iterator, Sequence, Set
from datetime import datetime
from typing import Final

from the_block_llm.pipelines.sequence_build.chat_documents import (
    chat_document,
    choose_wording,
    listed,
)
from the_block_llm.pipelines.sequence_build.descriptions import Description
from the_block_llm.pipelines.sequence_build.drafts import Draft
from the_block_llm.schemas import Split

_MOST_NAMED: Final = 12
_WHAT_FOR: Final = {
    "file": (
        "What is {path} for?",
        "What does the file {path} contain, and what is its purpose?",
        "Describe the role of {path} in this project.",
    ),
    "section": (
        "What does {path} say about {name!r}?",
        "What is in the section {name!r} of {path}?",
        "What does the documentation in {path} say under {name!r}?",
    ),
    "definition": (
        "What is {name} in {path} for?",
        "What does {name} do ({path})?",
        "Explain {name} of {path}.",
    ),
}
_WHERE: Final = (
    "Where is {name} defined?",
    "In which file do I find {name}?",
    "Where does {name} live in this project?",
)
_DEPENDS_ON: Final = (
    "What does {path} depend on?",
    "Which parts of this project does {path} use?",
)
_USED_BY: Final = (
    "What depends on {path}?",
    "Which files are affected if the interface of {path} changes?",
)


def description_chat(
    description: Description, path: str, split: Split, written_at: datetime, seed: int
) -> Draft:
    """Ask what a part of a file is for."""
    key = f"{description.of}:{path}:{description.name}"
    wording = choose_wording(_WHAT_FOR[description.of], key, seed)
    question = wording.format(path=path, name=description.name)
    subject = path if description.of == "file" else f"{description.name} ({path})"
    answer = f"{subject}: {description.text}"
    return chat_document(description.of, key, split, path, written_at, question, answer)


def where_chat(
    description: Description, path: str, split: Split, written_at: datetime, seed: int
) -> Draft:
    """Ask where a definition lives; its name must be the only one of its kind."""
    sentence = " ".join(description.text.split("\n\n")[0].split())
    question = choose_wording(_WHERE, description.name, seed).format(name=description.name)
    answer = f"{description.name} is defined in {path}. {sentence}"
    key = f"{path}:{description.name}"
    return chat_document("where", key, split, path, written_at, question, answer)


def dependency_chats(
    path: str,
    depends_on: Sequence[str],
    used_by: Sequence[str],
    split: Split,
    written_at: datetime,
    seed: int,
) -> Iterator[Draft]:
    """Ask what a file uses, and what uses it."""
    for topic, wordings, others, verb in (
        ("depends-on", _DEPENDS_ON, depends_on, "uses"),
        ("used-by", _USED_BY, used_by, "is used by"),
    ):
        if others:
            question = choose_wording(wordings, path, seed).format(path=path)
            answer = f"{path} {verb} {listed(sorted(others), _MOST_NAMED)}."
            yield chat_document(topic, path, split, path, written_at, question, answer)


def newly_described(descriptions: Sequence[Description], before: Set[str]) -> Iterator[Description]:
    """Descriptions whose text was not there before."""
    return (description for description in descriptions if description.text not in before)
