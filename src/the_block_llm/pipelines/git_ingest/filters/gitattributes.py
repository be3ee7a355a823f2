"""Parses the ``linguist-*`` attributes in a repository's ``.gitattributes``.

git itself is not asked, because attributes can also name programs to run. The files are read from
the tree as plain text, and all other attributes are ignored. Precedence is that of git
(https://git-scm.com/docs/gitattributes): the file in the deeper folder wins, and within one file
the last matching line.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from the_block_llm.languages import canonical_language
from the_block_llm.pipelines.git_ingest.filters.gitattributes_patterns import (
    compile_any,
    path_regex,
)
from the_block_llm.pipelines.git_ingest.git.objects import BlobReader
from the_block_llm.pipelines.git_ingest.git.sandbox import RepositorySandbox
from the_block_llm.pipelines.git_ingest.git.tree import TreeEntry

_FILE_NAME: Final = b".gitattributes"
_MACRO: Final = b"[attr]"
_LINGUIST_ATTRIBUTES: Final = (
    b"linguist-generated", b"linguist-vendored", b"linguist-documentation", b"linguist-language",
)  # fmt: skip
_ATTRIBUTE_NAME: Final = re.compile(rb"[A-Za-z0-9_.][A-Za-z0-9_.-]*")
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2}|.)", re.DOTALL)
_ESCAPED_CHARACTERS: Final = {
    b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v",
}  # fmt: skip
_MAX_LINE_BYTES: Final = 2048  # git ignores longer lines too
# Larger than in any real repository; bounds the cost of a hostile one.
_MAX_RULES: Final = 1000
_MAX_FILES: Final = 1000
_MAX_FILE_BYTES: Final = 1 << 18
_MAX_CACHED_PATHS: Final = 16_384

AttributeValue = bool | bytes | None
"""Set, unset, a string, or None for unspecified (``!name``)."""
AttributeSettings = tuple[tuple[bytes, AttributeValue], ...]


class FileAttributes(NamedTuple):
    """Attributes of one file; None where unspecified."""

    generated: bool | None = None
    vendored: bool | None = None
    documentation: bool | None = None
    language: str | None = None

    def counted_language(self, language: str | None) -> str | None:
        """Return the language to count the file under; documentation has none, as on GitHub."""
        return "documentation" if self.documentation else language


NO_ATTRIBUTES: Final = FileAttributes()


class AttributeRule(NamedTuple):
    """One line of a ``.gitattributes``."""

    folder: bytes
    """Folder of the ``.gitattributes``, ``b""`` or with a trailing slash."""
    pattern: bytes
    settings: AttributeSettings


@dataclass(frozen=True)
class GitAttributes:
    """The relevant lines of all ``.gitattributes`` of a tree, by ascending precedence."""

    rules: tuple[AttributeRule, ...] = ()
    macros: tuple[tuple[bytes, AttributeSettings], ...] = ()
    n_ignored: int = 0
    """Lines and files beyond the limits."""


def read_gitattributes(sandbox: RepositorySandbox, entries: Iterable[TreeEntry]) -> GitAttributes:
    """Read the ``.gitattributes`` files among ``entries``, all entries of a tree.

    A file that is missing or a symlink is ignored.
    """
    found = [entry for entry in entries if _is_attributes_file(entry)]
    if not found:
        return GitAttributes()
    # The root first: only its file defines macros, and rules of deeper folders take precedence.
    found.sort(key=lambda entry: entry.path.count(b"/"))
    blobs = BlobReader(sandbox)
    try:
        sizes = blobs.sizes([entry.blob for entry in found[:_MAX_FILES]])
        readable = [
            entry
            for entry, size in zip(found, sizes, strict=False)
            if size is not None and size <= _MAX_FILE_BYTES
        ]
        texts = blobs.contents([entry.blob for entry in readable])
        parsed = parse_gitattributes(
            (entry.path[: -len(_FILE_NAME)], text or b"")
            for entry, text in zip(readable, texts, strict=True)
        )
        n_large = sum(size is not None and size > _MAX_FILE_BYTES for size in sizes)
        n_beyond = len(found) - len(sizes)
        return replace(parsed, n_ignored=parsed.n_ignored + n_large + n_beyond)
    finally:
        blobs.close()


def _is_attributes_file(entry: TreeEntry) -> bool:
    if not entry.path.endswith(_FILE_NAME) or entry.is_symlink or entry.is_submodule:
        return False
    return entry.path[: -len(_FILE_NAME)][-1:] in (b"", b"/")


def parse_gitattributes(files: Iterable[tuple[bytes, bytes]]) -> GitAttributes:
    r"""Parse the lines that can set a ``linguist-*`` attribute.

    Args:
        files: Folder and content of each file, outer folders before inner ones.

    >>> parse_gitattributes([(b"", b"*.py diff=python\n*.rs linguist-generated\n")]).rules
    (AttributeRule(folder=b'', pattern=b'*.rs', settings=((b'linguist-generated', True),)),)
    """
    macros: dict[bytes, AttributeSettings] = {}
    rules: list[AttributeRule] = []
    n_ignored = 0
    for folder, content in files:
        lines = list(_parse_lines(content))
        if not folder:
            macros = {
                pattern.removeprefix(_MACRO): settings
                for pattern, settings in lines
                if pattern.startswith(_MACRO)
            }
        relevant = {
            *_LINGUIST_ATTRIBUTES,
            *(name for name in macros if _sets_linguist_attribute(name, macros)),
        }
        for pattern, settings in lines:
            used = tuple(s for s in settings if s[0] in relevant)
            if not used or pattern.startswith(_MACRO):
                continue
            if len(rules) < _MAX_RULES:
                rules.append(AttributeRule(folder, pattern, used))
            else:
                n_ignored += 1
    return GitAttributes(
        tuple(rules),
        tuple((name, s) for name, s in macros.items() if _sets_linguist_attribute(name, macros)),
        n_ignored,
    )


def _sets_linguist_attribute(macro: bytes, macros: Mapping[bytes, AttributeSettings]) -> bool:
    names, seen = [macro], set[bytes]()
    while names:
        name = names.pop()
        if name in _LINGUIST_ATTRIBUTES:
            return True
        if name not in seen:
            seen.add(name)
            names.extend(inner for inner, _ in macros.get(name, ()))
    return False


def _parse_lines(content: bytes) -> Iterator[tuple[bytes, AttributeSettings]]:
    """Yield pattern (or ``[attr]`` with the name of a macro) and settings of each valid line."""
    for raw in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = raw.partition(b"\0")[0].strip(b" \t\r")
        if not line or line.startswith(b"#") or len(raw) >= _MAX_LINE_BYTES:
            continue
        quoted = _QUOTED.match(line)
        if quoted is not None:
            pattern, rest = _ESCAPE.sub(_unescape, quoted[1]), line[quoted.end() :]
        else:
            pattern, *others = re.split(rb"[ \t\r]+", line, maxsplit=1)
            rest = others[0] if others else b""
        settings = _parse_settings(rest)
        if settings and not pattern.startswith(b"!"):
            yield pattern, settings


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code, 8)]) if len(code) == 3 else _ESCAPED_CHARACTERS.get(code, code)


def _parse_settings(text: bytes) -> AttributeSettings | None:
    """Return the settings of a line, or None if one is invalid: git then ignores the line."""
    settings: list[tuple[bytes, AttributeValue]] = []
    for word in re.findall(rb"[^ \t\r]+", text):
        name, equals, value = word.lstrip(b"-!").partition(b"=")
        if word[:2] in (b"--", b"!!", b"-!", b"!-") or not _ATTRIBUTE_NAME.fullmatch(name):
            return None
        default: AttributeValue = value if equals else True
        settings.append((name, {b"-": False, b"!": None}.get(word[:1], default)))
    return tuple(settings)


def attribute_matcher(gitattributes: GitAttributes) -> Callable[[bytes], FileAttributes]:
    """Return a function from the full path of a file to its attributes."""
    return _no_attributes if not gitattributes.rules else _matcher(gitattributes).attributes_of


def _no_attributes(path: bytes) -> FileAttributes:  # noqa: ARG001
    return NO_ATTRIBUTES


@functools.lru_cache(maxsize=4)
def _matcher(gitattributes: GitAttributes) -> "_Matcher":
    return _Matcher(gitattributes)


class _Matcher:
    def __init__(self, gitattributes: GitAttributes) -> None:
        self._macros = dict(gitattributes.macros)
        compiled = [(path_regex(r.folder, r.pattern), r.settings) for r in gitattributes.rules]
        # Nearly every path matches no rule: one automaton rejects it.
        self._any = compile_any([regex for regex, _ in compiled if regex is not None])
        self._rules = [
            (compile_any([regex]), settings) for regex, settings in compiled if regex is not None
        ]
        self._cached: dict[bytes, FileAttributes] = {}

    def attributes_of(self, path: bytes) -> FileAttributes:
        if path not in self._cached:
            if len(self._cached) >= _MAX_CACHED_PATHS:
                self._cached.clear()
            self._cached[path] = self._match(path) if self._any.fullmatch(path) else NO_ATTRIBUTES
        return self._cached[path]

    def _match(self, path: bytes) -> FileAttributes:
        values: dict[bytes, AttributeValue] = {}
        for regex, settings in reversed(self._rules):
            if regex.fullmatch(path):
                self._apply(values, settings)
        generated, vendored, documentation = (
            _as_bool(values.get(name)) for name in _LINGUIST_ATTRIBUTES[:3]
        )
        language = values.get(_LINGUIST_ATTRIBUTES[3])
        return FileAttributes(
            generated,
            vendored,
            documentation,
            canonical_language(language.decode("utf-8", "replace"))
            if isinstance(language, bytes)
            else None,
        )

    def _apply(self, values: dict[bytes, AttributeValue], settings: AttributeSettings) -> None:
        for name, value in reversed(settings):
            if name not in values:
                values[name] = value
                if value is True and name in self._macros:
                    self._apply(values, self._macros[name])


def _as_bool(value: AttributeValue) -> bool | None:
    return value != b"false" if isinstance(value, bytes) else value
