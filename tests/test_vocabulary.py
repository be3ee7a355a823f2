"""Names and headings use the field's terms: the project's earlier private words do not return."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sorted(
    path for tree in ("src", "tests", "benchmarks", "docs") for path in (ROOT / tree).rglob("*.py")
)
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]

# Private word: the term to use.
PRIVATE_WORDS = {
    "anew": "again",
    "anybody": "any, user",
    "beginnings": "backfill",
    "borders": "boundaries",
    "conveyor": "double buffer",
    "elsewhere": "the name of the target, e.g. ollama",
    "familiar": "train_overlap",
    "foretold": "predicted",
    "glance": "summary",
    "leftovers": "stale_temp_dirs",
    "likeness": "similarity",
    "looking": "inspect",
    "mend": "fix",
    "mended": "fixed",
    "neighbourhood": "locality",
    "nobody": "none",
    "noted": "recorded, metadata",
    "pieces": "chunks, shards, parts",
    "quantised": "quantized",
    "side": "split",
    "sides": "splits",
    "slope": "grad",
    "slopes": "grads",
    "surprise": "perplexity",
    "tally": "counts",
    "telling": "informative",
    "told": "reported",
    "tokenised": "tokenized",
    "tricks": "heuristic_baselines",
    "wish": "options, request",
    "worded": "signatures",
    "wording": "features, template",
}
PRIVATE_NAMES = {
    "one_by_one": "fan_out",
    "own_words": "shingling",
    "private_view": "sandbox",
    "said_again": "exact_duplicates",
    "shown_text": "sanitize",
    "cited_text": "citation_stream",
    "two_times": "history_split",
    "let_go": "free, release",
    "give_back": "trim, release",
    "at_hand": "available",
    "held_back": "held_out",
}


def words_of(name: str) -> list[str]:
    """The words of an identifier, in lower case.

    >>> words_of("_HeldBack"), words_of("tokens_at_once")
    (['held', 'back'], ['tokens', 'at', 'once'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def names_in(tree: ast.AST) -> Iterator[str]:
    """Every name that a module defines."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(asname=str(name)):
                yield name


def private(name: str) -> str | None:
    """What to write instead of ``name``; None where it is fine."""
    words = words_of(name)
    for word in words:
        if word in PRIVATE_WORDS:
            return f"{word} -> {PRIVATE_WORDS[word]}"
    joined = f"_{'_'.join(words)}_"
    for phrase, term in PRIVATE_NAMES.items():
        if f"_{phrase}_" in joined:
            return f"{phrase} -> {term}"
    return None


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_module_is_or_defines_a_private_name(path: Path) -> None:
    names = {path.stem, path.parent.name, *names_in(ast.parse(path.read_text(encoding="utf-8")))}
    assert {name: term for name in sorted(names) if (term := private(name))} == {}


def test_no_heading_of_a_page_has_a_private_word() -> None:
    headings = {
        (page.name, heading): term
        for page in PAGES
        for heading in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        for term in [private(heading.replace(" ", "_"))]
        if term and not re.search("side by side", heading)
    }
    assert headings == {}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("HeldBack", True), ("held_out", False), ("begin_slopes", True), ("_Tally", True),
        ("inside", False), ("sides_of", True), ("give_back_freed", True), ("token_nll", False),
    ],
)  # fmt: skip
def test_a_private_name_is_found(name: str, found: bool) -> None:
    assert (private(name) is not None) == found
