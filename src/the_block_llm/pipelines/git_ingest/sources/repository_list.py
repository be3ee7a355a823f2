"""From what stands under ``repositories`` to the repositories that it names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.git_ingest.git.repository import is_bundle, is_repository, is_url

_DEEPEST: Final = 3  # host/organisation/name, as tools that mirror organisations lay clones out


def listed(repositories: str | Sequence[str]) -> list[str]:
    """Return the paths and URLs that are meant, in the order in which they are read.

    Args:
        repositories: A list of paths and URLs; or the path of a text file with one on each
            line (``#`` begins a remark, relative paths start at the file's folder); or a folder
            of clones, work trees, bare ones and bundles, up to three folders deep.

    Raises:
        ParameterError: It names nothing.
    """
    if not isinstance(repositories, str):
        return [str(one) for one in repositories]
    given = repositories.strip()
    path = Path(given).expanduser()
    if not given or is_url(given):
        return [given] if given else []
    if path.is_dir():
        found = [given] if is_repository(path) else [str(one) for one in _clones(path, 1)]
        what = f"The folder {path} holds no git repository up to {_DEEPEST} folders deep"
    elif path.is_file():
        found = [given] if is_bundle(path) else _lines(path)
        what = f"The file {path} names no repository"
    else:
        found, what = [], f"There is no file or folder {path.absolute()}"
    if not found:
        raise ParameterError(
            f"repositories={given!r}: {what}. Give a list of paths and URLs, a text file with one "
            "on each line, or a folder of clones."
        )
    return found


def _clones(folder: Path, depth: int) -> list[Path]:
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if is_repository(path):
                found.append(path)
            elif depth < _DEEPEST and not path.is_symlink() and not path.name.startswith("."):
                found += _clones(path, depth + 1)
        elif path.suffix == ".bundle" and is_bundle(path):
            found.append(path)
    return found


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ParameterError(f"repositories={str(path)!r} is not a text file in UTF-8.") from error
    named = (line.partition(" #")[0].strip() for line in text.splitlines())
    return [
        one if is_url(one) else str(path.parent / Path(one).expanduser())
        for one in named
        if one and not one.startswith("#")
    ]
