"""What a repository's own ``.gitattributes`` say of its files: the marks ``linguist-*``.

Git is never asked, because attributes can also name programs to run. The files are read from
the tree as plain text; everything but these marks is passed over. Precedence is git's: the
file in the deeper folder decides, and within one file the last line that matches.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from the_block_llm.languages import canonical_language
from the_block_llm.pipelines.git_ingest.filters.gitattributes_patterns import any_of, path_regex
from the_block_llm.pipelines.git_ingest.git.objects import BlobReader
from the_block_llm.pipelines.git_ingest.git.sandbox import PrivateView
from the_block_llm.pipelines.git_ingest.git.tree import TreeEntry

_FILE_NAME: Final = b".gitattributes"
_MACRO: Final = b"[attr]"
_MARKS: Final = (
    b"linguist-generated", b"linguist-vendored", b"linguist-documentation", b"linguist-language",
)  # fmt: skip
_NAME: Final = re.compile(rb"[A-Za-z0-9_.][A-Za-z0-9_.-]*")
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2}|.)", re.DOTALL)
_ESCAPED: Final = {
    b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v",
}  # fmt: skip
_MAX_LINE_BYTES: Final = 2048  # git passes over longer ones too
# Beyond all real repositories; bounds what a hostile one can cost.
_MAX_RULES: Final = 1000
_MAX_FILES: Final = 1000
_MAX_FILE_BYTES: Final = 1 << 18
_MAX_CACHED_PATHS: Final = 16_384

Value = bool | bytes | None
"""Set, unset, a word, or taken back (``!name``)."""
Settings = tuple[tuple[bytes, Value], ...]


class FileMarks(NamedTuple):
    """What the attributes say of one file; None where they say nothing."""

    generated: bool | None = None
    vendored: bool | None = None
    documentation: bool | None = None
    language: str | None = None

    def counted_as(self, language: str | None) -> str | None:
        """Where the file's bytes are counted: documentation is of no language, as on GitHub."""
        return "documentation" if self.documentation else language


UNMARKED: Final = FileMarks()


class Rule(NamedTuple):
    """One line of a ``.gitattributes``."""

    folder: bytes
    """Of the file that the line stands in, ``b""`` or with a slash at its end."""
    pattern: bytes
    settings: Settings


@dataclass(frozen=True)
class Attributes:
    """The lines that matter of all ``.gitattributes`` of a tree, those that decide last."""

    rules: tuple[Rule, ...] = ()
    macros: tuple[tuple[bytes, Settings], ...] = ()
    n_left_out: int = 0
    """Lines and whole files beyond what is read."""


def read_attributes(view: PrivateView, entries: Iterable[TreeEntry]) -> Attributes:
    """Read the attributes of the tree that consists of ``entries``.

    A file that is missing or a symlink says nothing.
    """
    found = [entry for entry in entries if _is_attributes_file(entry)]
    if not found:
        return Attributes()
    # The outermost first: only it defines macros, and rules of inner folders come after.
    found.sort(key=lambda entry: entry.path.count(b"/"))
    blobs = BlobReader(view)
    try:
        sizes = blobs.sizes([entry.blob for entry in found[:_MAX_FILES]])
        readable = [
            entry
            for entry, size in zip(found, sizes, strict=False)
            if size is not None and size <= _MAX_FILE_BYTES
        ]
        texts = blobs.contents([entry.blob for entry in readable])
        parsed = parse_attributes(
            (entry.path[: -len(_FILE_NAME)], text or b"")
            for entry, text in zip(readable, texts, strict=True)
        )
        n_large = sum(size is not None and size > _MAX_FILE_BYTES for size in sizes)
        n_beyond = len(found) - len(sizes)
        return replace(parsed, n_left_out=parsed.n_left_out + n_large + n_beyond)
    finally:
        blobs.close()


def _is_attributes_file(entry: TreeEntry) -> bool:
    if not entry.path.endswith(_FILE_NAME) or entry.is_symlink or entry.is_submodule:
        return False
    return entry.path[: -len(_FILE_NAME)][-1:] in (b"", b"/")


def parse_attributes(files: Iterable[tuple[bytes, bytes]]) -> Attributes:
    r"""Keep of ``files`` what can decide a mark.

    Args:
        files: Folder and content of each, outer folders before inner ones.

    >>> parse_attributes([(b"", b"*.py diff=python\n*.rs linguist-generated\n")]).rules
    (Rule(folder=b'', pattern=b'*.rs', settings=((b'linguist-generated', True),)),)
    """
    macros: dict[bytes, Settings] = {}
    rules: list[Rule] = []
    n_left_out = 0
    for folder, content in files:
        lines = list(_lines(content))
        if not folder:
            macros = {
                pattern.removeprefix(_MACRO): settings
                for pattern, settings in lines
                if pattern.startswith(_MACRO)
            }
        useful = {*_MARKS, *(name for name in macros if _can_mark(name, macros))}
        for pattern, settings in lines:
            matters = tuple(s for s in settings if s[0] in useful)
            if not matters or pattern.startswith(_MACRO):
                continue
            if len(rules) < _MAX_RULES:
                rules.append(Rule(folder, pattern, matters))
            else:
                n_left_out += 1
    return Attributes(
        tuple(rules),
        tuple((name, s) for name, s in macros.items() if _can_mark(name, macros)),
        n_left_out,
    )


def _can_mark(macro: bytes, macros: Mapping[bytes, Settings]) -> bool:
    names, seen = [macro], set[bytes]()
    while names:
        name = names.pop()
        if name in _MARKS:
            return True
        if name not in seen:
            seen.add(name)
            names.extend(inner for inner, _ in macros.get(name, ()))
    return False


def _lines(content: bytes) -> Iterator[tuple[bytes, Settings]]:
    """Yield pattern (or ``[attr]`` and the name of a macro) and settings of each valid line."""
    for raw in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = raw.partition(b"\0")[0].strip(b" \t\r")
        if not line or line.startswith(b"#") or len(raw) >= _MAX_LINE_BYTES:
            continue
        quoted = _QUOTED.match(line)
        if quoted is not None:
            pattern, rest = _ESCAPE.sub(_unescaped, quoted[1]), line[quoted.end() :]
        else:
            pattern, *others = re.split(rb"[ \t\r]+", line, maxsplit=1)
            rest = others[0] if others else b""
        settings = _settings(rest)
        if settings and not pattern.startswith(b"!"):
            yield pattern, settings


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code, 8)]) if len(code) == 3 else _ESCAPED.get(code, code)


def _settings(text: bytes) -> Settings | None:
    """Return the settings of a line; None where one is invalid, which git then drops whole."""
    settings: list[tuple[bytes, Value]] = []
    for word in re.findall(rb"[^ \t\r]+", text):
        name, equals, value = word.lstrip(b"-!").partition(b"=")
        if word[:2] in (b"--", b"!!", b"-!", b"!-") or not _NAME.fullmatch(name):
            return None
        said: Value = value if equals else True
        settings.append((name, {b"-": False, b"!": None}.get(word[:1], said)))
    return tuple(settings)


def marks_of(attributes: Attributes) -> Callable[[bytes], FileMarks]:
    """Return what tells the marks of a file by its whole path."""
    return _no_marks if not attributes.rules else _matcher(attributes).marks


def _no_marks(path: bytes) -> FileMarks:  # noqa: ARG001
    return UNMARKED


@functools.lru_cache(maxsize=4)
def _matcher(attributes: Attributes) -> "_Matcher":
    return _Matcher(attributes)


class _Matcher:
    def __init__(self, attributes: Attributes) -> None:
        self._macros = dict(attributes.macros)
        compiled = [(path_regex(r.folder, r.pattern), r.settings) for r in attributes.rules]
        # Nearly every path matches no rule at all: one automaton says so.
        self._any = any_of([regex for regex, _ in compiled if regex is not None])
        self._rules = [
            (any_of([regex]), settings) for regex, settings in compiled if regex is not None
        ]
        self._cached: dict[bytes, FileMarks] = {}

    def marks(self, path: bytes) -> FileMarks:
        if path not in self._cached:
            if len(self._cached) >= _MAX_CACHED_PATHS:
                self._cached.clear()
            self._cached[path] = self._marks(path) if self._any.fullmatch(path) else UNMARKED
        return self._cached[path]

    def _marks(self, path: bytes) -> FileMarks:
        decided: dict[bytes, Value] = {}
        for regex, settings in reversed(self._rules):
            if regex.fullmatch(path):
                self._fill(decided, settings)
        generated, vendored, documentation = (_truth(decided.get(name)) for name in _MARKS[:3])
        language = decided.get(_MARKS[3])
        return FileMarks(
            generated,
            vendored,
            documentation,
            canonical_language(language.decode("utf-8", "replace"))
            if isinstance(language, bytes)
            else None,
        )

    def _fill(self, decided: dict[bytes, Value], settings: Settings) -> None:
        for name, value in reversed(settings):
            if name not in decided:
                decided[name] = value
                if value is True and name in self._macros:
                    self._fill(decided, self._macros[name])


def _truth(value: Value) -> bool | None:
    return value != b"false" if isinstance(value, bytes) else value
