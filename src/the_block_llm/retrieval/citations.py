"""Find the citations in an answer (paths with lines, commits, symbols) and check that they exist.

A fluent answer about a module that does not exist is worse than no answer, and keyword scores do
not detect it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal

_PATH: Final = re.compile(r"(?<![\w/.-])(?:[\w.-]+/)*[\w-][\w.-]*\.[A-Za-z]\w{0,9}(?![\w/])")
# "read/write" is not a folder; "read/write/" and "src/read/write" are.
_FOLDER: Final = re.compile(r"(?<![\w/.:-])(?:(?:[\w.-]+/){2,}[\w.-]*|[A-Za-z][\w.-]*/)(?![\w/])")
_LINES: Final = re.compile(r":L?(\d{1,9})(?:[-–]L?(\d{1,9}))?(?!\d)")
_SHA: Final = re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}\b")
_SYMBOL: Final = re.compile(r"`([A-Za-z_]\w*(?:(?:::|\.)[A-Za-z_]\w*)*)(?:\(\))?`")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w{2,}")
# Abbreviations that match the pattern of file names.
_NOT_A_FILE: Final = frozenset({"e.g", "i.e", "etc", "a.k.a"})
_MIN_SYMBOL_CHARACTERS: Final = 3


@dataclass(frozen=True)
class Citation:
    """A reference in an answer to a path, commit or symbol of the repository."""

    kind: Literal["path", "commit", "symbol"]
    text: str
    """Text in the answer; a path includes its lines."""
    exists: bool
    target: str | None = None
    """Full path of the file or full sha; None unless exactly one matches."""
    line: int | None = None
    """First cited line, from 1."""


@dataclass(frozen=True)
class CitedSpan:
    """A citation with its character offsets in the text."""

    start: int
    end: int
    citation: Citation


class KnownNames:
    """Paths, commits and identifiers of a repository, at HEAD or at the cut-off."""

    def __init__(
        self, line_counts: Mapping[str, int], shas: Iterable[str], identifiers: Iterable[str]
    ) -> None:
        """Initialize the lookup tables.

        Args:
            line_counts: Number of lines by path; 0 if the text is not available.
            shas: Full shas of all commits.
            identifiers: All identifiers in the code.
        """
        self.line_counts = line_counts
        self._shas = tuple(shas)
        self._identifiers = frozenset(identifiers)
        folders = {
            str(parent)
            for path in line_counts
            for parent in PurePosixPath(path).parents
            if parent.parts
        }
        self._paths = frozenset(folders | set(line_counts))
        self._suffixes = frozenset(PurePosixPath(path).suffix for path in line_counts)
        self._by_name: dict[str, list[str]] = {}
        for path in sorted(self._paths):
            self._by_name.setdefault(path.rpartition("/")[2], []).append(path)

    def matching_paths(self, text: str) -> list[str]:
        """Return the full paths that ``text`` matches: as path, file name, or trailing part."""
        path = text.removeprefix("./").strip("/")
        if path in self._paths:
            return [path]
        matches = [
            candidate
            for candidate in self._by_name.get(path.rpartition("/")[2], ())
            if candidate == path or candidate.endswith(f"/{path}")
        ]
        # A single word such as "server/" is too ambiguous for a folder; only files match.
        return matches if "/" in path else [m for m in matches if m in self.line_counts]

    def can_be_file(self, text: str) -> bool:
        """Return False for ``name.attribute`` whose suffix no file of the repository has."""
        return "/" in text or PurePosixPath(text).suffix in self._suffixes

    def matching_commits(self, text: str) -> list[str]:
        """Return the full shas that start with ``text``."""
        return [sha for sha in self._shas if sha.startswith(text)]

    def has_symbol(self, text: str) -> bool:
        """Return whether every part of the qualified name is an identifier in the code."""
        return all(part in self._identifiers for part in re.split(r"::|\.", text))


def known_names(
    files: Iterable[Mapping[str, Any]], commits: Iterable[Mapping[str, Any]]
) -> KnownNames:
    """Collect the names of a repository from its tables.

    Args:
        files: Rows of ``snapshot_files``; ``path`` and ``text``.
        commits: Rows of ``commits``; ``sha``.
    """
    line_counts: dict[str, int] = {}
    identifiers: set[str] = set()
    for file in files:
        path, text = str(PurePosixPath(file["path"])), file["text"] or ""
        # A file may be in two snapshots; a cited line may exist in either.
        line_counts[path] = max(line_counts.get(path, 0), count_lines(text))
        identifiers.update(identifiers_in(path), identifiers_in(text))
    return KnownNames(line_counts, (commit["sha"] for commit in commits), identifiers)


def count_lines(text: str) -> int:
    r"""Count the lines of a text as editors do.

    >>> [count_lines(text) for text in ("", "a", "a\n", "a\nb")]
    [0, 1, 1, 2]
    """
    return text.count("\n") + bool(text and not text.endswith("\n"))


def identifiers_in(text: str) -> set[str]:
    """Return all words of ``text`` that are valid identifiers of 3 or more characters."""
    return set(_IDENTIFIER.findall(text))


def cited_spans(answer: str, known: KnownNames) -> list[CitedSpan]:
    """Return the citations in ``answer``, in order; of overlapping ones the first, or longer."""
    spans = sorted(_spans(answer, known), key=lambda span: (span.start, -span.end))
    selected: list[CitedSpan] = []
    for span in spans:
        if not selected or span.start >= selected[-1].end:
            selected.append(span)
    return selected


def citations(answer: str, question: str, known: KnownNames) -> tuple[Citation, ...]:
    """Return the distinct citations in ``answer`` that ``question`` does not contain, by kind."""
    found: dict[str, Citation] = {}
    for span in _spans(answer, known):
        if span.citation.text not in question:
            found.setdefault(span.citation.text, span.citation)
    return tuple(found.values())


def _spans(answer: str, known: KnownNames) -> Iterator[CitedSpan]:
    for match in (*_PATH.finditer(answer), *_FOLDER.finditer(answer)):
        text = match.group().rstrip(".")
        if text.lower() not in _NOT_A_FILE and known.can_be_file(text):
            yield _path_span(answer, match.start(), text, known)
    for match in _SHA.finditer(answer):
        shas = known.matching_commits(match.group())
        target = shas[0] if len(shas) == 1 else None
        yield CitedSpan(
            *match.span(), Citation("commit", match.group(), exists=bool(shas), target=target)
        )
    for match in _SYMBOL.finditer(answer):
        if len(match[1]) >= _MIN_SYMBOL_CHARACTERS:
            exists = known.has_symbol(match[1])
            yield CitedSpan(*match.span(1), Citation("symbol", match[1], exists=exists))


def _path_span(answer: str, start: int, text: str, known: KnownNames) -> CitedSpan:
    paths = known.matching_paths(text)
    end = start + len(text)
    lines = _LINES.match(answer, end)
    first = last = None
    if lines is not None:
        first, last = int(lines[1]), int(lines[2] or lines[1])
        paths = [p for p in paths if 1 <= first <= last <= known.line_counts.get(p, 0)]
        end = lines.end()
    files = [path for path in paths if path in known.line_counts]
    return CitedSpan(
        start,
        end,
        Citation(
            "path",
            answer[start:end],
            exists=bool(paths),
            target=files[0] if len(files) == 1 else None,
            line=first if paths else None,
        ),
    )
