"""Expands the parameter ``repositories`` to a list of repositories."""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from the_block_llm.errors import ParameterError
from the_block_llm.os_errors import explain
from the_block_llm.pipelines.git_ingest.git.repository import (
    expand_user,
    is_bundle,
    is_repository,
    is_url,
)

_MAX_DEPTH: Final = 3  # host/organization/name, the layout of tools that mirror organizations


def expand_repositories(repositories: str | Sequence[str]) -> list[str]:
    """Return the paths and URLs to read, in order.

    Args:
        repositories: A list of paths and URLs; or the path of a text file with one per line
            (``#`` starts a comment, relative paths are resolved from the file's folder); or a
            folder of clones: work trees, bare repositories and bundles, up to three levels deep.

    Raises:
        ParameterError: It names no repository.
    """
    if not isinstance(repositories, str):
        return [str(source) for source in repositories]
    value = repositories.strip()
    if not value or is_url(value):
        return [value] if value else []
    path = expand_user(value)
    try:
        found, problem = _expand_path(path, value)
    except OSError as error:
        raise ParameterError(
            f"repositories={value[:300]!r} cannot be read: {explain(error)}"
        ) from error
    if not found:
        raise ParameterError(
            f"repositories={value!r}: {problem}. Set a list of paths and URLs, a text file with "
            "one per line, or a folder of clones."
        )
    return found


def _expand_path(path: Path, value: str) -> tuple[list[str], str]:
    """Return the repositories, and what is said if there are none."""
    if path.is_dir():
        found = [value] if is_repository(path) else [str(clone) for clone in _find_clones(path, 1)]
        problem = f"The folder {path} holds no git repository up to {_MAX_DEPTH} levels deep"
    elif path.is_file():
        found = [value] if is_bundle(path) else _read_list(path)
        problem = f"The file {path} names no repository"
    else:
        found, problem = [], f"There is no file or folder {path.absolute()}"
    return found, problem


def _find_clones(folder: Path, depth: int) -> list[Path]:
    clones: list[Path] = []
    for path in sorted(folder.iterdir()):
        try:
            if path.is_dir():
                if is_repository(path):
                    clones.append(path)
                elif depth < _MAX_DEPTH and not path.is_symlink() and not path.name.startswith("."):
                    clones += _find_clones(path, depth + 1)
            elif path.suffix == ".bundle" and is_bundle(path):
                clones.append(path)
        except OSError:
            clones.append(path)  # opening it gives the reason, and it is skipped
    return clones


def _read_list(path: Path) -> list[str]:
    content = path.read_bytes()
    # Windows' PowerShell writes UTF-16 with a byte order mark.
    encoding = (
        "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ParameterError(
            f"repositories={str(path)!r} is not a text file in UTF-8 ({error.reason} at byte "
            f"{error.start}). Save it as UTF-8."
        ) from error
    return [
        source
        for line in text.splitlines()
        if not line.lstrip().startswith("#") and (source := _list_entry(line, path.parent))
    ]


def _list_entry(line: str, folder: Path) -> str:
    """Return the path or URL of a line, without the comment behind it."""
    source = line.strip()
    if not is_url(source) and " #" in source and (folder / expand_user(source)).exists():
        return str(folder / expand_user(source))
    source = source.partition(" #")[0].strip()
    return source if not source or is_url(source) else str(folder / expand_user(source))
