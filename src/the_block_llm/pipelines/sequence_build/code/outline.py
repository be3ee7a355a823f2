"""What a source file defines, in order, each with the line that declares it."""

import ast
import re
import warnings
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_MOST_CHARACTERS: Final = 200  # of a declaration; a longer one is cut
_RUST_ITEM: Final = re.compile(
    r"^(?P<indent>[ ]{0,4})(?P<line>(?:pub(?:\([^)]*\))?[ \t]+)(?:async[ \t]+|unsafe[ \t]+"
    r"|const[ \t]+)*(?P<what>fn|struct|enum|trait|mod|type)[ \t]+(?P<name>\w+)"
    # A semicolon in brackets is that of an array, [u8; 32].
    r"(?:\[[^\]{]*\]|[^{;\[])*)",
    re.MULTILINE,
)
RUST_OWNER: Final = re.compile(
    r"^(?:pub(?:\([^)]*\))?[ \t]+)?(?:unsafe[ \t]+)?"
    r"(?:trait[ \t]+|mod[ \t]+(?=\w+[ \t]*\{)"
    r"|impl(?:<[^{\n]*?>)?[ \t]+(?:[^{\n]*?[ \t]for[ \t]+)?)(?P<name>\w+)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Declaration:
    """A public thing of a file."""

    name: str
    line: str
    """As it is written, up to its body, in one line."""
    is_inner: bool
    """True for a method."""


def declarations(text: str, language: str | None) -> list[Declaration]:
    """The public declarations of a Python or Rust file, in order; none of other languages."""
    finders = {"Python": _python, "Rust": _rust}
    finder = finders.get(language or "")
    return list(finder(text)) if finder is not None else []


@lru_cache(maxsize=1)  # descriptions and declarations of a file are asked for one after the other
def parsed(text: str) -> ast.Module | None:
    """A Python file's syntax tree; none where it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's strings
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _python(text: str) -> Iterator[Declaration]:
    tree = parsed(text)
    for node in tree.body if tree is not None else []:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            yield _declaration(node.name, f"class {node.name}" + (f"({bases})" if bases else ""))
            for member in node.body:
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and (
                    not member.name.startswith("_")
                ):
                    name = f"{node.name}.{member.name}"
                    yield _declaration(name, signature(member), is_inner=True)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
            not node.name.startswith("_")
        ):
            yield _declaration(node.name, signature(node))


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """A function's head as code."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    before = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{before} {node.name}({ast.unparse(node.args)}){returns}"


def _rust(text: str) -> Iterator[Declaration]:
    owners = [(owner.start(), owner["name"]) for owner in RUST_OWNER.finditer(text)]
    for item in _RUST_ITEM.finditer(text):
        name, line = item["name"], item["line"]
        at = bisect(owners, (item.start(), "")) - 1
        if item["indent"] and at >= 0:
            # An impl may stand far from its type, so a method says whose it is.
            begin = item.start("name") - item.start("line")
            name = f"{owners[at][1]}::{name}"
            line = f"{line[:begin]}{owners[at][1]}::{line[begin:]}"
        yield _declaration(name, line, is_inner=bool(item["indent"]))


def _declaration(name: str, line: str, *, is_inner: bool = False) -> Declaration:
    return Declaration(name, in_one_line(line), is_inner)


def in_one_line(declaration: str) -> str:
    """A declaration without its line breaks, cut where it is long."""
    flat = " ".join(declaration.split()).replace("( ", "(").replace(", )", ")")
    return flat if len(flat) <= _MOST_CHARACTERS else f"{flat[:_MOST_CHARACTERS]} …"
