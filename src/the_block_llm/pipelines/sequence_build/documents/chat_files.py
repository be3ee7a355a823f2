"""Questions about files: purpose, location, outline and dependencies."""

from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime
from pathlib import PurePosixPath
from typing import Final

from the_block_llm.pipelines.sequence_build.code.docstrings import Docstring
from the_block_llm.pipelines.sequence_build.code.outline import Declaration
from the_block_llm.pipelines.sequence_build.document import RenderedDocument
from the_block_llm.pipelines.sequence_build.documents.chat import (
    bulleted_list,
    chat_document,
    choose_template,
    join_names,
)
from the_block_llm.schemas import Split

_MAX_PATHS: Final = 12
_PURPOSE_QUESTIONS: Final = {
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
_LOCATION_QUESTIONS: Final = (
    "Where is {name} defined?",
    "In which file do I find {name}?",
    "Where does {name} live in this project?",
)
_DEPENDENCY_QUESTIONS: Final = (
    "What does {path} depend on?",
    "Which parts of this project does {path} use?",
)
_USAGE_QUESTIONS: Final = (
    "What depends on {path}?",
    "Which files are affected if the interface of {path} changes?",
)
_OUTLINE_QUESTIONS: Final = (
    "What does {path} define?",
    "Give me an outline of {path}.",
    "Which types and functions are in {path}?",
)
_FOLDER_QUESTIONS: Final = (
    "What is in the folder {folder}?",
    "Which files does {folder} hold, and what are they for?",
    "How is {folder} laid out?",
)
_MIN_ITEMS: Final = 2
_MAX_DECLARATIONS: Final = 14
_MAX_FILES: Final = 20
_MAX_SENTENCE_CHARACTERS: Final = 140


def docstring_chat(
    docstring: Docstring, path: str, split: Split, written_at: datetime, seed: int
) -> RenderedDocument:
    """Ask for the purpose of a file, section or definition."""
    key = f"{docstring.kind}:{path}:{docstring.name}"
    template = choose_template(_PURPOSE_QUESTIONS[docstring.kind], key, seed)
    question = template.format(path=path, name=docstring.name)
    subject = path if docstring.kind == "file" else f"{docstring.name} ({path})"
    declaration = f"`{docstring.declaration}`\n\n" if docstring.declaration else ""
    answer = f"{subject}: {declaration}{docstring.text}"
    return chat_document(docstring.kind, key, split, path, written_at, question, answer)


def location_chat(
    docstring: Docstring, path: str, split: Split, written_at: datetime, seed: int
) -> RenderedDocument:
    """Ask in which file a definition is; its name must be unique."""
    sentence = first_sentence(docstring.text)
    question = choose_template(_LOCATION_QUESTIONS, docstring.name, seed).format(
        name=docstring.name
    )
    answer = f"{docstring.name} is defined in {path}. {sentence}"
    key = f"{path}:{docstring.name}"
    return chat_document("where", key, split, path, written_at, question, answer)


def dependency_chats(
    path: str,
    depends_on: Sequence[str],
    used_by: Sequence[str],
    split: Split,
    written_at: datetime,
    seed: int,
) -> Iterator[RenderedDocument]:
    """Ask which files a file imports, and which import it."""
    for topic, templates, others, verb in (
        ("depends-on", _DEPENDENCY_QUESTIONS, depends_on, "uses"),
        ("used-by", _USAGE_QUESTIONS, used_by, "is used by"),
    ):
        if others:
            question = choose_template(templates, path, seed).format(path=path)
            answer = f"{path} {verb} {join_names(sorted(others), _MAX_PATHS)}."
            yield chat_document(topic, path, split, path, written_at, question, answer)


def outline_chat(
    path: str,
    declarations: Sequence[Declaration],
    docstrings: Mapping[str, str],
    split: Split,
    written_at: datetime,
    seed: int,
) -> Iterator[RenderedDocument]:
    """Ask what a file defines, unless it has fewer than two declarations.

    Args:
        path: Path of the file.
        declarations: Declarations in the file, in order.
        docstrings: Text of their docstrings by name.
        split: Split of the document.
        written_at: When the file was written.
        seed: Chooses the phrasing.
    """
    top_level = [declaration for declaration in declarations if not declaration.is_nested]
    shown = declarations if len(declarations) <= _MAX_DECLARATIONS else top_level
    if len(shown) < _MIN_ITEMS:
        return
    lines = []
    for declaration in shown:
        purpose = first_sentence(docstrings.get(declaration.name, ""))
        indent = "  " if declaration.is_nested else ""
        lines.append(f"{indent}- `{declaration.signature}`" + (f": {purpose}" if purpose else ""))
    answer = f"{path} defines:\n{bulleted_list(lines, _MAX_DECLARATIONS)}"
    question = choose_template(_OUTLINE_QUESTIONS, path, seed).format(path=path)
    yield chat_document("outline", path, split, path, written_at, question, answer)


def folder_chats(
    purposes: Mapping[str, str], written_at: datetime, seed: int
) -> Iterator[RenderedDocument]:
    """Ask what is in each folder of the training snapshot.

    Args:
        purposes: Purpose of every file by path; empty for a file that does not document it.
        written_at: Time of the cutoff.
        seed: Chooses the phrasing.
    """
    by_folder: dict[str, list[str]] = {}
    for path in sorted(purposes):
        by_folder.setdefault(str(PurePosixPath(path).parent), []).append(path)
    for folder, paths in by_folder.items():
        if folder == "." or len(paths) < _MIN_ITEMS:
            continue
        lines = [
            f"- {PurePosixPath(path).name}"
            + (f": {purpose}" if (purpose := purposes[path]) else "")
            for path in paths
        ]
        answer = f"{folder} holds {len(paths)} files:\n{bulleted_list(lines, _MAX_FILES)}"
        question = choose_template(_FOLDER_QUESTIONS, folder, seed).format(folder=f"{folder}/")
        source = f"{folder}/{PurePosixPath(paths[0]).name}"
        yield chat_document("folder", folder, "train", source, written_at, question, answer)


def first_sentence(text: str) -> str:
    r"""Return the first sentence of a docstring on one line, truncated if it is long.

    >>> first_sentence("Adds numbers.  Slowly.\n\nMore.")
    'Adds numbers.'
    """
    line = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    sentence, stop, _ = line.partition(". ")
    line = f"{sentence}." if stop else line
    if len(line) <= _MAX_SENTENCE_CHARACTERS:
        return line
    return f"{line[:_MAX_SENTENCE_CHARACTERS].rpartition(' ')[0]} …"


def new_docstrings(docstrings: Sequence[Docstring], known_texts: Set[str]) -> Iterator[Docstring]:
    """Return the docstrings whose text is not in ``known_texts``."""
    return (docstring for docstring in docstrings if docstring.text not in known_texts)
