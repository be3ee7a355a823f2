"""Documentation inside files: docstrings, doc comments and Markdown sections."""

import ast
import re
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from the_block_llm.pipelines.sequence_build.code.outline import (
    RUST_CONTAINER,
    one_line_signature,
    parse_python,
    python_signature,
)

_MIN_WORDS: Final = 6  # shorter ones ("Constructor.") carry no information
_MAX_CHARACTERS: Final = 1200  # of one answer; longer texts are still in the file document

_HEADING: Final = re.compile(r"^(#{1,4})[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_RUST_HEADER: Final = re.compile(r"\A(?:[ \t]*//!.*\n?)+")
_RUST_ITEM: Final = re.compile(
    r"(?P<doc>(?:^[ \t]*///.*\n)+)(?:^[ \t]*#\[.*\n)*"
    r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?(?:async[ \t]+|unsafe[ \t]+|const[ \t]+)*"
    r"(?:fn|struct|enum|trait|mod|type|union|macro_rules!)[ \t]+(?P<name>\w+)",
    re.MULTILINE,
)
_RUST_ATTRIBUTE: Final = re.compile(r"^[ \t]*#\[.*\n", re.MULTILINE)
# Up to the body; a semicolon in brackets belongs to an array type, [u8; 32].
_RUST_REST: Final = re.compile(r"(?:\[[^\]{]*\]|[^{;\[])*")
_TRAILING_RULE: Final = re.compile(r"\n+(?:-{3,}|\*{3,}|_{3,})\s*\Z")
_MAX_DECLARATION_CHARACTERS: Final = 400


@dataclass(frozen=True)
class Docstring:
    """Text that documents a file or a definition, or the body of a Markdown section."""

    kind: Literal["file", "section", "definition"]
    name: str
    """Heading or identifier; empty for a file."""
    text: str
    declaration: str = ""
    """Source line that declares a definition."""


def extract_docstrings(text: str, language: str | None) -> list[Docstring]:
    """Extract the docstrings of a Python, Rust or Markdown file; other languages have none.

    A Python file that does not parse has none either: a snapshot may contain templates and work
    in progress.
    """
    extractors = {"Python": _python, "Rust": _rust, "Markdown": _markdown}
    extract = extractors.get(language or "")
    if extract is None:
        return []
    found: dict[tuple[str, str], Docstring] = {}
    for docstring in extract(text):
        n_words = len(docstring.text.split())
        if n_words >= _MIN_WORDS and len(docstring.text) <= _MAX_CHARACTERS:
            # Of several with the same name (overloads, headings "Usage") the first is used.
            found.setdefault((docstring.kind, docstring.name), docstring)
    return list(found.values())


def _python(text: str) -> Iterator[Docstring]:
    tree = parse_python(text)
    if tree is None:
        return
    if doc := ast.get_docstring(tree):
        yield Docstring("file", "", doc)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _python_definition(node, node.name)
            for member in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from _python_definition(member, f"{node.name}.{member.name}")


def _python_definition(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, name: str
) -> Iterator[Docstring]:
    if doc := ast.get_docstring(node):
        declaration = f"class {name}" if isinstance(node, ast.ClassDef) else python_signature(node)
        yield Docstring("definition", name, doc, one_line_signature(declaration))


def _rust(text: str) -> Iterator[Docstring]:
    if header := _RUST_HEADER.match(text):
        yield Docstring("file", "", _uncomment(header.group(), "//!"))
    containers = [(match.start(), match["name"]) for match in RUST_CONTAINER.finditer(text)]
    for item in _RUST_ITEM.finditer(text):
        name = item["name"]
        if item["doc"][0] in " \t":
            index = bisect(containers, (item.start(), "")) - 1
            name = f"{containers[index][1]}::{name}" if index >= 0 else name
        start = _RUST_ATTRIBUTE.sub("", item.group()[len(item["doc"]) :])
        rest = _RUST_REST.match(text, item.end(), item.end() + _MAX_DECLARATION_CHARACTERS)
        declaration = one_line_signature(start + (rest.group() if rest else ""))
        yield Docstring("definition", name, _uncomment(item["doc"], "///"), declaration)


def _uncomment(block: str, marker: str) -> str:
    return "\n".join(
        line.strip().removeprefix(marker).removeprefix(" ") for line in block.strip().splitlines()
    ).strip()


def _markdown(text: str) -> Iterator[Docstring]:
    # A "#" inside a fenced block starts a comment, not a heading.
    unfenced = _FENCE.sub(lambda block: re.sub(r"[^\n]", "x", block.group()), text)
    headings = list(_HEADING.finditer(unfenced))
    for index, heading in enumerate(headings):
        end = headings[index + 1].start() if index + 1 < len(headings) else len(text)
        body = _TRAILING_RULE.sub("", f"\n{text[heading.end() : end]}").strip()
        yield Docstring("section", heading[2].strip(), body)
