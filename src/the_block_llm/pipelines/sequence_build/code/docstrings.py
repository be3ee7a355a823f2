"""What a file says about itself: doc comments, docstrings and sections of documentation."""

import ast
import re
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from the_block_llm.pipelines.sequence_build.code.outline import (
    RUST_OWNER,
    in_one_line,
    parsed,
    signature,
)

_FEWEST_WORDS: Final = 6  # fewer ("Constructor.") explain nothing
_MOST_CHARACTERS: Final = 1200  # of one answer; a longer passage is learned as a file

_HEADING: Final = re.compile(r"^(#{1,4})[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_RUST_HEADER: Final = re.compile(r"\A(?:[ \t]*//!.*\n?)+")
_RUST_ITEM: Final = re.compile(
    r"(?P<doc>(?:^[ \t]*///.*\n)+)(?:^[ \t]*#\[.*\n)*"
    r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?(?:async[ \t]+|unsafe[ \t]+|const[ \t]+)*"
    r"(?P<what>fn|struct|enum|trait|mod|type|union|macro_rules!)[ \t]+(?P<name>\w+)",
    re.MULTILINE,
)
_RUST_ATTRIBUTE: Final = re.compile(r"^[ \t]*#\[.*\n", re.MULTILINE)
# Up to the body; a semicolon in brackets is that of an array, [u8; 32].
_RUST_REST: Final = re.compile(r"(?:\[[^\]{]*\]|[^{;\[])*")
_BREAK: Final = re.compile(r"\n+(?:-{3,}|\*{3,}|_{3,})\s*\Z")  # a rule before the next section
_DECLARED_CHARACTERS: Final = 400


@dataclass(frozen=True)
class Description:
    """A passage that says what something is for."""

    of: Literal["file", "section", "definition"]
    name: str
    """Heading or identifier; empty for a file."""
    text: str
    declared: str = ""
    """Of a definition: the line that declares it."""


def describe(text: str, language: str | None) -> list[Description]:
    """Find the passages in a file that explain it; none where its language is not read.

    Text that does not parse gives nothing: a snapshot may hold templates and work in progress.
    """
    finders = {"Python": _python, "Rust": _rust, "Markdown": _markdown}
    finder = finders.get(language or "")
    if finder is None:
        return []
    found: dict[tuple[str, str], Description] = {}
    for description in finder(text):
        n_words = len(description.text.split())
        if n_words >= _FEWEST_WORDS and len(description.text) <= _MOST_CHARACTERS:
            # Of several with one name (overloads, headings "Usage") the first is meant.
            found.setdefault((description.of, description.name), description)
    return list(found.values())


def _python(text: str) -> Iterator[Description]:
    tree = parsed(text)
    if tree is None:
        return
    if doc := ast.get_docstring(tree):
        yield Description("file", "", doc)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _python_definition(node, node.name)
            for member in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from _python_definition(member, f"{node.name}.{member.name}")


def _python_definition(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, name: str
) -> Iterator[Description]:
    if doc := ast.get_docstring(node):
        declared = f"class {name}" if isinstance(node, ast.ClassDef) else signature(node)
        yield Description("definition", name, doc, in_one_line(declared))


def _rust(text: str) -> Iterator[Description]:
    if header := _RUST_HEADER.match(text):
        yield Description("file", "", _uncomment(header.group(), "//!"))
    owners = [(owner.start(), owner["name"]) for owner in RUST_OWNER.finditer(text)]
    for item in _RUST_ITEM.finditer(text):
        name = item["name"]
        if item["doc"][0] in " \t":
            at = bisect(owners, (item.start(), "")) - 1
            name = f"{owners[at][1]}::{name}" if at >= 0 else name
        begun = _RUST_ATTRIBUTE.sub("", item.group()[len(item["doc"]) :])
        rest = _RUST_REST.match(text, item.end(), item.end() + _DECLARED_CHARACTERS)
        declared = in_one_line(begun + (rest.group() if rest else ""))
        yield Description("definition", name, _uncomment(item["doc"], "///"), declared)


def _uncomment(block: str, mark: str) -> str:
    return "\n".join(
        line.strip().removeprefix(mark).removeprefix(" ") for line in block.strip().splitlines()
    ).strip()


def _markdown(text: str) -> Iterator[Description]:
    # A "#" inside a fenced block is a comment of some program, not a heading.
    unfenced = _FENCE.sub(lambda block: re.sub(r"[^\n]", "x", block.group()), text)
    headings = list(_HEADING.finditer(unfenced))
    for at, heading in enumerate(headings):
        end = headings[at + 1].start() if at + 1 < len(headings) else len(text)
        said = _BREAK.sub("", f"\n{text[heading.end() : end]}").strip()
        yield Description("section", heading[2].strip(), said)
