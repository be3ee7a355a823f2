"""What belongs together, as plain text to go on with: paths of a commit, a patch and its message.

A model that is asked by likelihood, as evaluation does, is shown such text and no chat. These
documents say the same things in the same form, made from the training side alone; what is
evaluated was committed later.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Final

from the_block_llm.pipelines.sequence_build.code.source_file import SnapshotFile
from the_block_llm.pipelines.sequence_build.document import Draft, Segment
from the_block_llm.pipelines.sequence_build.documents.commits import FileChange
from the_block_llm.pipelines.sequence_build.history.commits import Commit
from the_block_llm.pipelines.sequence_build.history.messages import headline_of
from the_block_llm.schemas import DocumentKind

_MOST_FILES: Final = 40  # a commit of more is a sweep, and ties nothing together
_PATHS_LISTED: Final = 8
_ORDERS: Final = 3  # of the paths of one commit, so that each stands first and last
_PATCH_CHARACTERS: Final = 700
_LEAST_PATCH_CHARACTERS: Final = 80
_PATCHES_SHOWN: Final = 2
_PATCHES_TOLD: Final = 8  # a message of more is not about any one of them
_FILE_CHARACTERS: Final = 600
_LEAST_FILE_CHARACTERS: Final = 120
_FILES_A_FOLDER: Final = 4
_CODE_CHARACTERS: Final = 600
_LEAST_CODE_CHARACTERS: Final = 120
_MOST_CODE_LINES: Final = 20
_LEAST_CODE_LINES: Final = 4
_CODE_SHOWN: Final = 2
_DEFINITION: Final = re.compile(
    r"\s*(?:export |default |pub(?:\([a-z ]+\))? |static |async |unsafe |const )*"
    r"(?:fn|def|func|function|class|impl|struct|enum|trait|interface) +\(?(?P<name>\w+)"
)
_PLACES: Final = re.compile(r"^(?:@@|---|\+\+\+)[^\n]*\n?", re.MULTILINE)


def commit_associations(
    commit: Commit, changes: Sequence[FileChange], existing: frozenset[str], project: str, seed: int
) -> Iterator[Draft]:
    """Tie the paths of a commit to each other and to its message, and its patches to it.

    Args:
        commit: Of the training side.
        changes: Its kept changes.
        existing: Paths of the training snapshot; others are not named.
        project: Its name.
        seed: Of the order of paths.
    """
    rng = random.Random(f"{seed}:together:{commit.sha}")  # noqa: S311 - nothing secret
    message = headline_of(commit)
    paths = sorted({change.path for change in changes if change.path in existing})
    if 2 <= len(paths) <= _MOST_FILES:
        said = f"Message: {message}\n" if message else ""
        for number in range(min(_ORDERS, len(paths))):
            listed = rng.sample(paths, min(_PATHS_LISTED, len(paths)))
            first, *others = (f"- {path}\n" for path in listed)
            yield _draft(
                f"commit-files/{commit.sha}/{number}", "commit", commit.sha, commit.authored_at,
                f"One commit to {project}.\n{said}Files it changed:\n{first}", "".join(others),
            )  # fmt: skip
    yield from _new_code(commit, changes, existing, project, rng)
    if not message or len(changes) > _PATCHES_TOLD:
        return
    patches = sorted((_bare(c.patch) for c in changes if c.patch), key=len, reverse=True)
    for number, patch in enumerate(patches[:_PATCHES_SHOWN]):
        if len(patch) >= _LEAST_PATCH_CHARACTERS:
            yield _draft(
                f"commit-message/{commit.sha}/{number}", "commit", commit.sha, commit.authored_at,
                f"A change to {project}:\n\n{patch[:_PATCH_CHARACTERS]}\n\nIts commit message:",
                f" {message}\n",
            )  # fmt: skip


def _new_code(
    commit: Commit,
    changes: Sequence[FileChange],
    existing: frozenset[str],
    project: str,
    rng: random.Random,
) -> Iterator[Draft]:
    """Tie what a commit added to a file that was there to the file's path."""
    found = [
        (change.path, text)
        for change in sorted(changes, key=lambda change: change.path)
        if change.status == "M" and change.path in existing and (text := _definition(change))
    ]
    for path, text in rng.sample(found, min(_CODE_SHOWN, len(found))):
        yield _draft(
            f"code-file/{commit.sha}/{path}", "commit", commit.sha, commit.authored_at,
            f"New code in {project}:\n\n{text}\n\nIt was added to the file", f" {path}\n",
        )  # fmt: skip


def _definition(change: FileChange) -> str:
    """The first function or type that a patch adds whole, not in place of its like; or nothing."""
    lines = (change.patch or "").split("\n")
    removed = " ".join(line[1:] for line in lines if line.startswith("-"))
    block: list[str] = []
    for line in [*lines, ""]:
        is_added = line.startswith("+")
        begins = _DEFINITION.match(line[1:]) if is_added and not block else None
        if (
            is_added
            and len(block) < _MOST_CODE_LINES
            and (block or (begins and begins["name"] not in removed))
        ):
            block.append(line[1:])
            continue
        text = "\n".join(block).strip("\n")
        if len(block) >= _LEAST_CODE_LINES and len(text) >= _LEAST_CODE_CHARACTERS:
            return text[:_CODE_CHARACTERS]
        block = []
    return ""


def folder_associations(
    files: Iterable[SnapshotFile], written_at: datetime, project: str, seed: int
) -> Iterator[Draft]:
    """Tie how files begin to the folder they stand in, a few files a folder.

    Args:
        files: That are learned.
        written_at: The cut-off.
        project: Its name.
        seed: Chooses the files.
    """
    by_folder: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for file in files:
        start = file.text[:_FILE_CHARACTERS].strip()
        if len(start) >= _LEAST_FILE_CHARACTERS and "/" in file.path:
            by_folder[str(PurePosixPath(file.path).parent)].append((file.path, start))
    for folder in sorted(by_folder):
        rng = random.Random(f"{seed}:folder:{folder}")  # noqa: S311 - nothing secret
        found = sorted(by_folder[folder])
        for path, start in rng.sample(found, min(_FILES_A_FOLDER, len(found))):
            yield _draft(
                f"file-folder/{path}", "file", path, written_at,
                f"A new file of {project} begins:\n\n{start}\n\nThe file is in the folder",
                f" {folder}/\n",
            )  # fmt: skip


def _draft(
    document_id: str, kind: DocumentKind, source: str, at: datetime, shown: str, learned: str
) -> Draft:
    segments = (Segment(shown, train=False), Segment(learned, train=True))
    return Draft(document_id, kind, "train", source, at, segments, completes=True)


def _bare(patch: str) -> str:
    """The change without line numbers and file names."""
    return _PLACES.sub("", patch).strip("\n")
