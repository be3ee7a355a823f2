"""Does what an answer cites exist? Paths, commits, and names of code in backticks.

A fluent answer about a module that was never written is worse than none, and no list of
concepts would notice it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal

_PATH: Final = re.compile(r"(?<![\w/.-])(?:[\w.-]+/)*[\w-][\w.-]*\.[A-Za-z]\w{0,9}(?![\w/])")
# "read/write" is no folder; "read/write/" and "src/read/write" are.
_FOLDER: Final = re.compile(r"(?<![\w/.:-])(?:(?:[\w.-]+/){2,}[\w.-]*|[A-Za-z][\w.-]*/)(?![\w/])")
_SHA: Final = re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}\b")
_SYMBOL: Final = re.compile(r"`([A-Za-z_]\w*(?:(?:::|\.)[A-Za-z_]\w*)*)(?:\(\))?`")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w{2,}")
# "e.g." and the like look like file names; these endings are files.
_NOT_A_FILE: Final = frozenset({"e.g", "i.e", "etc", "a.k.a"})
_SHORTEST_SYMBOL: Final = 3


@dataclass(frozen=True)
class Citation:
    """Something that an answer says is there."""

    kind: Literal["path", "commit", "symbol"]
    text: str
    exists: bool


@dataclass(frozen=True)
class KnownNames:
    """What there is in the repository, now or at the cut-off."""

    paths: frozenset[str]
    """Files and folders."""
    file_names: frozenset[str]
    shas: tuple[str, ...]
    identifiers: frozenset[str]

    def has_path(self, text: str) -> bool:
        """True for a path, a folder, a bare file name, or the end of a path."""
        path = text.strip("/").removeprefix("./")
        if path in self.paths or path in self.file_names:
            return True
        return "/" in path and any(known.endswith(f"/{path}") for known in self.paths)

    def has_commit(self, text: str) -> bool:
        """True where a commit's sha begins so."""
        return any(sha.startswith(text) for sha in self.shas)

    def has_symbol(self, text: str) -> bool:
        """True where every part of the name stands somewhere in the code."""
        return all(part in self.identifiers for part in re.split(r"::|\.", text))


def known_names(
    files: Iterable[Mapping[str, Any]], commits: Iterable[Mapping[str, Any]]
) -> KnownNames:
    """Collect names.

    Args:
        files: Rows of ``snapshot_files``; ``path`` and ``text``.
        commits: Rows of ``commits``; ``sha``.
    """
    paths: set[str] = set()
    names: set[str] = set()
    identifiers: set[str] = set()
    for file in files:
        path = PurePosixPath(file["path"])
        paths.add(str(path))
        paths.update(str(parent) for parent in path.parents if parent.parts)
        names.add(path.name)
        identifiers.update(_IDENTIFIER.findall(str(path)))
        identifiers.update(_IDENTIFIER.findall(file["text"] or ""))
    return KnownNames(
        paths=frozenset(paths),
        file_names=frozenset(names),
        shas=tuple(commit["sha"] for commit in commits),
        identifiers=frozenset(identifiers),
    )


def citations(answer: str, question: str, known: KnownNames) -> tuple[Citation, ...]:
    """What ``answer`` cites beyond what ``question`` named, each once, in order."""
    found: dict[str, Citation] = {}
    for match in (*_PATH.finditer(answer), *_FOLDER.finditer(answer)):
        text = match.group().rstrip(".")
        if text not in question and text.lower().rstrip(".") not in _NOT_A_FILE:
            found.setdefault(text, Citation("path", text, known.has_path(text)))
    for match in _SHA.finditer(answer):
        if match.group() not in question:
            found.setdefault(
                match.group(), Citation("commit", match.group(), known.has_commit(match.group()))
            )
    for match in _SYMBOL.finditer(answer):
        text = match[1]
        if text not in question and len(text) >= _SHORTEST_SYMBOL and text not in found:
            found[text] = Citation("symbol", text, known.has_symbol(text))
    return tuple(found.values())
