"""Does what an answer cites exist? Paths with their lines, commits, and names of code.

A fluent answer about a module that was never written is worse than none, and no list of
concepts would notice it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal

_PATH: Final = re.compile(r"(?<![\w/.-])(?:[\w.-]+/)*[\w-][\w.-]*\.[A-Za-z]\w{0,9}(?![\w/])")
# "read/write" is no folder; "read/write/" and "src/read/write" are.
_FOLDER: Final = re.compile(r"(?<![\w/.:-])(?:(?:[\w.-]+/){2,}[\w.-]*|[A-Za-z][\w.-]*/)(?![\w/])")
_LINES: Final = re.compile(r":L?(\d{1,9})(?:[-–]L?(\d{1,9}))?(?!\d)")
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
    """As the answer wrote it, a path with its lines."""
    exists: bool
    target: str | None = None
    """The whole path of the file, or the whole sha, where there is exactly that."""
    line: int | None = None
    """First line cited, from 1."""


@dataclass(frozen=True)
class CitedSpan:
    """A citation and where it stands in the text."""

    start: int
    end: int
    citation: Citation


class KnownNames:
    """What there is in the repository, now or at the cut-off."""

    def __init__(
        self, line_counts: Mapping[str, int], shas: Iterable[str], identifiers: Iterable[str]
    ) -> None:
        """Take what there is.

        Args:
            line_counts: By path of a file, how many lines it has; 0 where its text is not kept.
            shas: Of all commits.
            identifiers: Names that stand anywhere in the code.
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

    def paths(self, text: str) -> list[str]:
        """Whole paths that ``text`` can mean: a path, a bare file name, or a path's end."""
        path = text.removeprefix("./").strip("/")
        if path in self._paths:
            return [path]
        found = [
            known
            for known in self._by_name.get(path.rpartition("/")[2], ())
            if known == path or known.endswith(f"/{path}")
        ]
        # A single word is no folder's name: "server/" may be anything.
        return found if "/" in path else [known for known in found if known in self.line_counts]

    def can_be_file(self, text: str) -> bool:
        """False for a bare ``name.attribute`` that ends like no file of the repository."""
        return "/" in text or PurePosixPath(text).suffix in self._suffixes

    def commits(self, text: str) -> list[str]:
        """Whole shas that begin with ``text``."""
        return [sha for sha in self._shas if sha.startswith(text)]

    def has_symbol(self, text: str) -> bool:
        """True where every part of the name stands somewhere in the code."""
        return all(part in self._identifiers for part in re.split(r"::|\.", text))


def known_names(
    files: Iterable[Mapping[str, Any]], commits: Iterable[Mapping[str, Any]]
) -> KnownNames:
    """Collect names.

    Args:
        files: Rows of ``snapshot_files``; ``path`` and ``text``.
        commits: Rows of ``commits``; ``sha``.
    """
    line_counts: dict[str, int] = {}
    identifiers: set[str] = set()
    for file in files:
        path, text = str(PurePosixPath(file["path"])), file["text"] or ""
        # Of two snapshots of a file, a line may be in either.
        line_counts[path] = max(line_counts.get(path, 0), count_lines(text))
        identifiers.update(identifiers_in(path), identifiers_in(text))
    return KnownNames(line_counts, (commit["sha"] for commit in commits), identifiers)


def count_lines(text: str) -> int:
    r"""Lines as editors count them.

    >>> [count_lines(text) for text in ("", "a", "a\n", "a\nb")]
    [0, 1, 1, 2]
    """
    return text.count("\n") + bool(text and not text.endswith("\n"))


def identifiers_in(text: str) -> set[str]:
    """Everything in ``text`` that can be a name in code."""
    return set(_IDENTIFIER.findall(text))


def cited_spans(answer: str, known: KnownNames) -> list[CitedSpan]:
    """What ``answer`` cites, in order; of citations that overlap the longer one."""
    spans = sorted(_spans(answer, known), key=lambda span: (span.start, -span.end))
    kept: list[CitedSpan] = []
    for span in spans:
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def citations(answer: str, question: str, known: KnownNames) -> tuple[Citation, ...]:
    """What ``answer`` cites beyond what ``question`` named, each once, by kind and in order."""
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
        shas = known.commits(match.group())
        target = shas[0] if len(shas) == 1 else None
        yield CitedSpan(
            *match.span(), Citation("commit", match.group(), exists=bool(shas), target=target)
        )
    for match in _SYMBOL.finditer(answer):
        if len(match[1]) >= _SHORTEST_SYMBOL:
            exists = known.has_symbol(match[1])
            yield CitedSpan(*match.span(1), Citation("symbol", match[1], exists=exists))


def _path_span(answer: str, start: int, text: str, known: KnownNames) -> CitedSpan:
    paths = known.paths(text)
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
