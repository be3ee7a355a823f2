"""Expands the parameter ``repositories`` to a list of repositories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.git_ingest.git.repository import is_bundle, is_repository, is_url

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
    path = Path(value).expanduser()
    if not value or is_url(value):
        return [value] if value else []
    if path.is_dir():
        found = [value] if is_repository(path) else [str(clone) for clone in _find_clones(path, 1)]
        problem = f"The folder {path} holds no git repository up to {_MAX_DEPTH} levels deep"
    elif path.is_file():
        found = [value] if is_bundle(path) else _read_list(path)
        problem = f"The file {path} names no repository"
    else:
        found, problem = [], f"There is no file or folder {path.absolute()}"
    if not found:
        raise ParameterError(
            f"repositories={value!r}: {problem}. Set a list of paths and URLs, a text file with "
            "one per line, or a folder of clones."
        )
    return found


def _find_clones(folder: Path, depth: int) -> list[Path]:
    clones: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if is_repository(path):
                clones.append(path)
            elif depth < _MAX_DEPTH and not path.is_symlink() and not path.name.startswith("."):
                clones += _find_clones(path, depth + 1)
        elif path.suffix == ".bundle" and is_bundle(path):
            clones.append(path)
    return clones


def _read_list(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ParameterError(f"repositories={str(path)!r} is not a text file in UTF-8.") from error
    lines = (line.partition(" #")[0].strip() for line in text.splitlines())
    return [
        line if is_url(line) else str(path.parent / Path(line).expanduser())
        for line in lines
        if line and not line.startswith("#")
    ]
