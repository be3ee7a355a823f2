"""Completion pairs: a context and its continuation, such as a patch and its commit message.

Evaluation tasks that compare likelihoods use plain text of this form, without a chat template.
These documents teach the form. They are rendered from training commits only; the tasks ask about
later commits.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Final

from the_block_llm.pipelines.sequence_build.code.source_file import SourceFile
from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment
from the_block_llm.pipelines.sequence_build.documents.commits import FileChange
from the_block_llm.pipelines.sequence_build.history.commits import Commit
from the_block_llm.pipelines.sequence_build.history.messages import commit_headline
from the_block_llm.schemas import DocumentKind

_MAX_FILES: Final = 40  # a larger commit is a sweeping change whose files are unrelated
_MAX_PATHS: Final = 8
_MAX_ORDERS: Final = 3  # permutations of the paths of one commit, so that the first path varies
_MAX_PATCH_CHARACTERS: Final = 700
_MIN_PATCH_CHARACTERS: Final = 80
_MAX_PATCHES: Final = 2
_MAX_PATCHED_FILES: Final = 8  # the message of a larger commit is not about any one of its patches
_MAX_FILE_CHARACTERS: Final = 600
_MIN_FILE_CHARACTERS: Final = 120
_MAX_FILES_PER_FOLDER: Final = 4
_MAX_CODE_CHARACTERS: Final = 600
_MIN_CODE_CHARACTERS: Final = 120
_MAX_CODE_LINES: Final = 20
_MIN_CODE_LINES: Final = 4
_MAX_DEFINITIONS: Final = 2
_DEFINITION: Final = re.compile(
    r"\s*(?:export |default |pub(?:\([a-z ]+\))? |static |async |unsafe |const )*"
    r"(?:fn|def|func|function|class|impl|struct|enum|trait|interface) +\(?(?P<name>\w+)"
)
_PATCH_HEADER: Final = re.compile(r"^(?:@@|---|\+\+\+)[^\n]*\n?", re.MULTILINE)


def commit_completion_pairs(
    commit: Commit,
    changes: Sequence[FileChange],
    existing_paths: frozenset[str],
    project: str,
    seed: int,
) -> Iterator[RenderedDocument]:
    """Render the completion pairs of a commit.

    Pairs: some of its paths and the others; a definition it adds and the path; a patch and the
    message.

    Args:
        commit: A training commit.
        changes: Its changes.
        existing_paths: Paths in the training snapshot; others are not named.
        project: Name of the project.
        seed: Chooses the order of paths and the definitions.
    """
    rng = random.Random(f"{seed}:together:{commit.sha}")  # noqa: S311 - not for security
    message = commit_headline(commit)
    paths = sorted({change.path for change in changes if change.path in existing_paths})
    if 2 <= len(paths) <= _MAX_FILES:
        message_line = f"Message: {message}\n" if message else ""
        for number in range(min(_MAX_ORDERS, len(paths))):
            sampled = rng.sample(paths, min(_MAX_PATHS, len(paths)))
            first, *others = (f"- {path}\n" for path in sampled)
            yield _document(
                f"commit-files/{commit.sha}/{number}", "commit", commit.sha, commit.authored_at,
                f"One commit to {project}.\n{message_line}Files it changed:\n{first}",
                "".join(others),
            )  # fmt: skip
    yield from _added_code_pairs(commit, changes, existing_paths, project, rng)
    if not message or len(changes) > _MAX_PATCHED_FILES:
        return
    patches = sorted((_without_headers(c.patch) for c in changes if c.patch), key=len, reverse=True)
    for number, patch in enumerate(patches[:_MAX_PATCHES]):
        if len(patch) >= _MIN_PATCH_CHARACTERS:
            yield _document(
                f"commit-message/{commit.sha}/{number}", "commit", commit.sha, commit.authored_at,
                f"A change to {project}:\n\n{patch[:_MAX_PATCH_CHARACTERS]}\n\nIts commit message:",
                f" {message}\n",
            )  # fmt: skip


def _added_code_pairs(
    commit: Commit,
    changes: Sequence[FileChange],
    existing_paths: frozenset[str],
    project: str,
    rng: random.Random,
) -> Iterator[RenderedDocument]:
    """Render pairs of a definition that a commit added to an existing file, and the path."""
    found = [
        (change.path, text)
        for change in sorted(changes, key=lambda change: change.path)
        if change.status == "M"
        and change.path in existing_paths
        and (text := _added_definition(change))
    ]
    for path, text in rng.sample(found, min(_MAX_DEFINITIONS, len(found))):
        yield _document(
            f"code-file/{commit.sha}/{path}", "commit", commit.sha, commit.authored_at,
            f"New code in {project}:\n\n{text}\n\nIt was added to the file", f" {path}\n",
        )  # fmt: skip


def _added_definition(change: FileChange) -> str:
    """Return the first function or type that a patch adds rather than replaces, or ``""``."""
    lines = (change.patch or "").split("\n")
    removed = " ".join(line[1:] for line in lines if line.startswith("-"))
    block: list[str] = []
    for line in [*lines, ""]:
        is_added = line.startswith("+")
        definition = _DEFINITION.match(line[1:]) if is_added and not block else None
        if (
            is_added
            and len(block) < _MAX_CODE_LINES
            and (block or (definition and definition["name"] not in removed))
        ):
            block.append(line[1:])
            continue
        text = "\n".join(block).strip("\n")
        if len(block) >= _MIN_CODE_LINES and len(text) >= _MIN_CODE_CHARACTERS:
            return text[:_MAX_CODE_CHARACTERS]
        block = []
    return ""


def folder_completion_pairs(
    files: Iterable[SourceFile], written_at: datetime, project: str, seed: int
) -> Iterator[RenderedDocument]:
    """Render pairs of the beginning of a file and its folder, a few files per folder.

    Args:
        files: Training files.
        written_at: Time of the cutoff.
        project: Name of the project.
        seed: Samples the files.
    """
    by_folder: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for file in files:
        start = file.text[:_MAX_FILE_CHARACTERS].strip()
        if len(start) >= _MIN_FILE_CHARACTERS and "/" in file.path:
            by_folder[str(PurePosixPath(file.path).parent)].append((file.path, start))
    for folder in sorted(by_folder):
        rng = random.Random(f"{seed}:folder:{folder}")  # noqa: S311 - not for security
        candidates = sorted(by_folder[folder])
        for path, start in rng.sample(candidates, min(_MAX_FILES_PER_FOLDER, len(candidates))):
            yield _document(
                f"file-folder/{path}", "file", path, written_at,
                f"A new file of {project} begins:\n\n{start}\n\nThe file is in the folder",
                f" {folder}/\n",
            )  # fmt: skip


def _document(
    document_id: str,
    kind: DocumentKind,
    source: str,
    authored_at: datetime,
    context: str,
    target: str,
) -> RenderedDocument:
    segments = (Segment(context, train=False), Segment(target, train=True))
    return RenderedDocument(
        document_id, kind, "train", source, authored_at, segments, is_completion_pair=True
    )


def _without_headers(patch: str) -> str:
    """Return a patch without hunk headers and file names."""
    return _PATCH_HEADER.sub("", patch).strip("\n")
