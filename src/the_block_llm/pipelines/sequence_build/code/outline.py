"""Outlines of source files: the public declarations in order, with their signatures."""

import ast
import re
import warnings
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_MAX_CHARACTERS: Final = 200  # of a signature; a longer one is truncated
_RUST_ITEM: Final = re.compile(
    r"^(?P<indent>[ ]{0,4})(?P<line>(?:pub(?:\([^)]*\))?[ \t]+)(?:async[ \t]+|unsafe[ \t]+"
    r"|const[ \t]+)*(?:fn|struct|enum|trait|mod|type)[ \t]+(?P<name>\w+)"
    # A semicolon in brackets belongs to an array type, [u8; 32].
    r"(?:\[[^\]{]*\]|[^{;\[])*)",
    re.MULTILINE,
)
RUST_CONTAINER: Final = re.compile(
    r"^(?:pub(?:\([^)]*\))?[ \t]+)?(?:unsafe[ \t]+)?"
    r"(?:trait[ \t]+|mod[ \t]+(?=\w+[ \t]*\{)"
    r"|impl(?:<[^{\n]*?>)?[ \t]+(?:[^{\n]*?[ \t]for[ \t]+)?)(?P<name>\w+)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Declaration:
    """A public declaration in a file."""

    name: str
    signature: str
    """Source text up to the body, on one line."""
    is_nested: bool
    """True for a method."""


def extract_declarations(text: str, language: str | None) -> list[Declaration]:
    """Return the public declarations of a Python or Rust file, in order.

    Files in other languages have none.
    """
    extractors = {"Python": _python, "Rust": _rust}
    extract = extractors.get(language or "")
    return list(extract(text)) if extract is not None else []


@lru_cache(maxsize=1)  # docstrings and declarations of a file are extracted in succession
def parse_python(text: str) -> ast.Module | None:
    """Return the syntax tree of a Python file, or ``None`` if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in the parsed file
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _python(text: str) -> Iterator[Declaration]:
    tree = parse_python(text)
    for node in tree.body if tree is not None else []:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            yield _declaration(node.name, f"class {node.name}" + (f"({bases})" if bases else ""))
            for member in node.body:
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and (
                    not member.name.startswith("_")
                ):
                    name = f"{node.name}.{member.name}"
                    yield _declaration(name, python_signature(member), is_nested=True)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
            not node.name.startswith("_")
        ):
            yield _declaration(node.name, python_signature(node))


def python_signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the signature of a function as source code."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{keyword} {node.name}({ast.unparse(node.args)}){returns}"


def _rust(text: str) -> Iterator[Declaration]:
    containers = [(match.start(), match["name"]) for match in RUST_CONTAINER.finditer(text)]
    for item in _RUST_ITEM.finditer(text):
        name, signature = item["name"], item["line"]
        index = bisect(containers, (item.start(), "")) - 1
        if item["indent"] and index >= 0:
            # An impl may be far from its type, so the name of a method includes the type.
            container = containers[index][1]
            name_start = item.start("name") - item.start("line")
            name = f"{container}::{name}"
            signature = f"{signature[:name_start]}{container}::{signature[name_start:]}"
        yield _declaration(name, signature, is_nested=bool(item["indent"]))


def _declaration(name: str, signature: str, *, is_nested: bool = False) -> Declaration:
    return Declaration(name, one_line_signature(signature), is_nested)


def one_line_signature(signature: str) -> str:
    """Put a signature on one line and truncate it if it is long."""
    flat = " ".join(signature.split()).replace("( ", "(").replace(", )", ")")
    return flat if len(flat) <= _MAX_CHARACTERS else f"{flat[:_MAX_CHARACTERS]} …"
