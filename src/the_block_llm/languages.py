"""Detect the language of a file from its name, using Pygments' lexers."""

import functools
import re
from fnmatch import fnmatchcase, translate
from typing import Final

from pygments.lexers import get_all_lexers  # type: ignore[import-untyped]

# Suffixes that several lexers claim, or for which Pygments uses an uncommon name.
_PREFERRED_SUFFIXES: Final = {
    ".bat": "Batchfile", ".c": "C", ".cc": "C++", ".cfg": "INI", ".conf": "INI", ".cpp": "C++",
    ".cs": "C#", ".css": "CSS", ".csv": "CSV", ".cu": "CUDA", ".d": "D", ".ex": "Elixir",
    ".f90": "Fortran", ".fs": "F#", ".go": "Go", ".h": "C", ".hcl": "HCL", ".hpp": "C++",
    ".hs": "Haskell", ".htm": "HTML", ".html": "HTML", ".inc": "Text", ".ini": "INI",
    ".ipynb": "Jupyter Notebook", ".java": "Java", ".jl": "Julia", ".js": "JavaScript",
    ".json": "JSON", ".jsonl": "JSON", ".jsx": "JavaScript", ".kt": "Kotlin", ".lua": "Lua",
    ".m": "Objective-C", ".md": "Markdown", ".mdx": "Markdown", ".mjs": "JavaScript",
    ".ml": "OCaml", ".php": "PHP", ".pl": "Perl", ".pm": "Perl", ".proto": "Protocol Buffer",
    ".ps1": "PowerShell", ".py": "Python", ".pyi": "Python", ".r": "R", ".rb": "Ruby",
    ".rs": "Rust", ".rst": "reStructuredText", ".s": "Assembly", ".scala": "Scala",
    ".sh": "Shell", ".sol": "Solidity", ".sql": "SQL", ".svelte": "Svelte", ".svg": "SVG",
    ".swift": "Swift", ".tcl": "Tcl", ".tex": "TeX", ".tf": "HCL", ".toml": "TOML",
    ".ts": "TypeScript", ".tsx": "TypeScript", ".txt": "Text", ".v": "Verilog", ".vue": "Vue",
    ".xml": "XML", ".yaml": "YAML", ".yml": "YAML", ".zig": "Zig",
}  # fmt: skip
_PREFERRED_NAMES: Final = {
    "cargo.lock": "TOML", "cmakelists.txt": "CMake", "dockerfile": "Dockerfile",
    "gemfile": "Ruby", "go.mod": "Go", "go.sum": "Text", "jenkinsfile": "Groovy",
    "justfile": "Just", "makefile": "Makefile", "rakefile": "Ruby", "readme": "Text",
}  # fmt: skip


@functools.lru_cache(maxsize=1024)
def language_of(file_name: str) -> str | None:
    """Return the language of a file by its base name; None if unknown.

    >>> language_of("lib.rs"), language_of("Makefile"), language_of("x.unknown")
    ('Rust', 'Makefile', None)
    """
    lower = file_name.lower()
    if lower in _PREFERRED_NAMES:
        return _PREFERRED_NAMES[lower]
    dot = lower.rfind(".")
    suffix = lower[dot:] if dot >= 0 else ""
    if suffix in _PREFERRED_SUFFIXES:
        return _PREFERRED_SUFFIXES[suffix]
    suffixes, patterns = _pygments_table()
    if suffix in suffixes:
        return suffixes[suffix]
    if _any_pattern().match(file_name) is None:
        return None
    return next((name for pattern, name in patterns if fnmatchcase(file_name, pattern)), None)


@functools.lru_cache(maxsize=1024)
def canonical_language(name: str) -> str | None:
    """Return the canonical spelling of a language name or alias; None if unknown.

    >>> canonical_language("rust"), canonical_language("Common-Lisp"), canonical_language("no such")
    ('Rust', 'Common Lisp', None)
    """
    return _canonical_names().get(name.lower())


@functools.cache
def _canonical_names() -> dict[str, str]:
    canonical: dict[str, str] = {}
    for name, aliases, _, _ in get_all_lexers(plugins=False):
        for alias in (name, name.replace(" ", "-"), *aliases):
            canonical.setdefault(alias.lower(), name)
    for name in (*_PREFERRED_SUFFIXES.values(), *_PREFERRED_NAMES.values()):
        canonical |= {name.lower(): name, name.lower().replace(" ", "-"): name}
    return canonical


@functools.cache
def _any_pattern() -> re.Pattern[str]:
    # Fast path: few names match any of the hundred patterns, and one regex rejects the others.
    return re.compile("|".join(translate(pattern) for pattern, _ in _pygments_table()[1]))


@functools.cache
def _pygments_table() -> tuple[dict[str, str], list[tuple[str, str]]]:
    suffixes: dict[str, str] = {}
    patterns: list[tuple[str, str]] = []
    for name, _, file_patterns, _ in get_all_lexers(plugins=False):
        for pattern in file_patterns:
            if pattern.startswith("*.") and not any(char in pattern[2:] for char in "*?[."):
                suffixes.setdefault(pattern[1:].lower(), name)
            else:
                patterns.append((pattern, name))
    return suffixes, patterns
