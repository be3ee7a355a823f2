"""Questions about files: what a part is for, where it lives, what depends on what."""

from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime
from pathlib import PurePosixPath
from typing import Final

from the_block_llm.pipelines.sequence_build.code.docstrings import Description
from the_block_llm.pipelines.sequence_build.code.outline import Declaration
from the_block_llm.pipelines.sequence_build.document import Draft
from the_block_llm.pipelines.sequence_build.documents.chat import (
    bulleted,
    chat_document,
    choose_wording,
    listed,
)
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
_DEFINES: Final = (
    "What does {path} define?",
    "Give me an outline of {path}.",
    "Which types and functions are in {path}?",
)
_IN_FOLDER: Final = (
    "What is in the folder {folder}?",
    "Which files does {folder} hold, and what are they for?",
    "How is {folder} laid out?",
)
_FEWEST_DECLARED: Final = 2
_LINES_LISTED: Final = 14
_FILES_LISTED: Final = 20
_SENTENCE_CHARACTERS: Final = 140


def description_chat(
    description: Description, path: str, split: Split, written_at: datetime, seed: int
) -> Draft:
    """Ask what a part of a file is for."""
    key = f"{description.of}:{path}:{description.name}"
    wording = choose_wording(_WHAT_FOR[description.of], key, seed)
    question = wording.format(path=path, name=description.name)
    subject = path if description.of == "file" else f"{description.name} ({path})"
    declared = f"`{description.declared}`\n\n" if description.declared else ""
    answer = f"{subject}: {declared}{description.text}"
    return chat_document(description.of, key, split, path, written_at, question, answer)


def where_chat(
    description: Description, path: str, split: Split, written_at: datetime, seed: int
) -> Draft:
    """Ask where a definition lives; its name must be the only one of its kind."""
    sentence = first_sentence(description.text)
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


def outline_chat(
    path: str,
    declared: Sequence[Declaration],
    described: Mapping[str, str],
    split: Split,
    written_at: datetime,
    seed: int,
) -> Iterator[Draft]:
    """Ask what a file defines; files that define next to nothing are not asked about.

    Args:
        path: Of the file.
        declared: Its declarations, in order.
        described: What they are for, by name.
        split: Side of the cut-off.
        written_at: When it was written.
        seed: Of the wording.
    """
    outer = [declaration for declaration in declared if not declaration.is_inner]
    listed_ones = declared if len(declared) <= _LINES_LISTED else outer
    if len(listed_ones) < _FEWEST_DECLARED:
        return
    lines = []
    for declaration in listed_ones:
        purpose = first_sentence(described.get(declaration.name, ""))
        indent = "  " if declaration.is_inner else ""
        lines.append(f"{indent}- `{declaration.line}`" + (f": {purpose}" if purpose else ""))
    answer = f"{path} defines:\n{bulleted(lines, _LINES_LISTED)}"
    question = choose_wording(_DEFINES, path, seed).format(path=path)
    yield chat_document("outline", path, split, path, written_at, question, answer)


def folder_chats(purposes: Mapping[str, str], written_at: datetime, seed: int) -> Iterator[Draft]:
    """Ask what is in each folder of the training snapshot.

    Args:
        purposes: By path of every file, what it says it is for; empty where it does not.
        written_at: The cut-off.
        seed: Of the wording.
    """
    by_folder: dict[str, list[str]] = {}
    for path in sorted(purposes):
        by_folder.setdefault(str(PurePosixPath(path).parent), []).append(path)
    for folder, paths in by_folder.items():
        if folder == "." or len(paths) < _FEWEST_DECLARED:
            continue
        lines = [
            f"- {PurePosixPath(path).name}" + (f": {said}" if (said := purposes[path]) else "")
            for path in paths
        ]
        answer = f"{folder} holds {len(paths)} files:\n{bulleted(lines, _FILES_LISTED)}"
        question = choose_wording(_IN_FOLDER, folder, seed).format(folder=f"{folder}/")
        source = f"{folder}/{PurePosixPath(paths[0]).name}"
        yield chat_document("folder", folder, "train", source, written_at, question, answer)


def first_sentence(text: str) -> str:
    r"""The first sentence of a description, in one line and cut where it is long.

    >>> first_sentence("Adds numbers.  Slowly.\n\nMore.")
    'Adds numbers.'
    """
    line = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    sentence, stop, _ = line.partition(". ")
    line = f"{sentence}." if stop else line
    if len(line) <= _SENTENCE_CHARACTERS:
        return line
    return f"{line[:_SENTENCE_CHARACTERS].rpartition(' ')[0]} …"


def newly_described(descriptions: Sequence[Description], before: Set[str]) -> Iterator[Description]:
    """Descriptions whose text was not there before."""
    return (description for description in descriptions if description.text not in before)
