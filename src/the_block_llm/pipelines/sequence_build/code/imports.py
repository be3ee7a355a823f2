"""Which file of a snapshot uses which, as far as imports tell."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from the_block_llm.pipelines.sequence_build.code.source_file import SnapshotFile

_PYTHON_IMPORT: Final = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<source>[.\w]+)[ \t]+import[ \t]+(?P<names>\([^)]*\)|[^\n#]+)"
    r"|import[ \t]+(?P<modules>[^\n#]+))",
    re.MULTILINE,
)
_RUST_USE: Final = re.compile(
    r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?use[ \t]+(?P<path>\w+(?:::\w+)*)", re.MULTILINE
)
_AMBIGUOUS: Final = ""  # two files answer to one name: then neither does


def dependencies(files: Iterable[SnapshotFile]) -> dict[str, list[str]]:
    """Read the imports of Python and Rust files and find the files they mean.

    Args:
        files: Of one snapshot; gone through once.

    Returns:
        For each importing path the paths it uses, in order. Imports of other projects' code,
        and names that several files answer to, are not in it.
    """
    imported: dict[str, list[tuple[str, ...]]] = {}
    named: dict[tuple[str, ...], str] = {}
    for file in files:
        for name in _names_of(file.path):
            named[name] = _AMBIGUOUS if name in named else file.path
        if file.language == "Python":
            imported[file.path] = list(_python_imports(file))
        elif file.language == "Rust":
            imported[file.path] = list(_rust_imports(file))
    found = {path: _resolve(names, named) - {path} for path, names in imported.items()}
    return {path: sorted(used) for path, used in found.items() if used}


def reverse(depends_on: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """By path, what uses it."""
    used_by: dict[str, list[str]] = defaultdict(list)
    for path, others in depends_on.items():
        for other in others:
            used_by[other].append(path)
    return dict(used_by)


def used_first(
    files: Iterable[SnapshotFile], depends_on: Mapping[str, Iterable[str]]
) -> Iterator[SnapshotFile]:
    """The files folder by folder, subfolders first; within one, what a file uses before the file.

    Args:
        files: Of one snapshot, in the order of their paths. Those of open folders are held.
        depends_on: By path the paths that it uses.
    """
    waiting: list[tuple[str, dict[str, SnapshotFile]]] = []
    for file in files:
        folder = _folder(file.path)
        while waiting and not f"{folder}/".startswith(waiting[-1][0]):
            yield from _in_order(waiting.pop()[1], depends_on)
        start = f"{folder}/" if folder else ""
        if not waiting or waiting[-1][0] != start:
            waiting.append((start, {}))
        waiting[-1][1][file.path] = file
    while waiting:
        yield from _in_order(waiting.pop()[1], depends_on)


def _in_order(
    files: Mapping[str, SnapshotFile], depends_on: Mapping[str, Iterable[str]]
) -> Iterator[SnapshotFile]:
    done: set[str] = set()
    for start in files:
        # Without recursion: a chain of imports may be longer than Python's stack.
        trail = [(start, iter(depends_on.get(start, ())))]
        seen = {start}
        while trail and start not in done:
            path, used = trail[-1]
            other = next((u for u in used if u in files and u not in done and u not in seen), None)
            if other is not None:
                seen.add(other)
                trail.append((other, iter(depends_on.get(other, ()))))
                continue
            # Of files that use each other, the one that comes first in the alphabet is last.
            done.add(path)
            yield files[path]
            trail.pop()


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _names_of(path: str) -> Iterator[tuple[str, ...]]:
    """The dotted names by which code can mean a file: each suffix of its path, from a root."""
    parts = PurePosixPath(path).parts
    stem = PurePosixPath(path).stem
    if path.endswith(".py"):
        whole = parts[:-1] if stem == "__init__" else (*parts[:-1], stem)
    elif path.endswith(".rs"):
        # crate a/b/src/c/d.rs is b::c::d; mod.rs, lib.rs and main.rs stand for their folder.
        folder = tuple(part for part in parts[:-1] if part != "src")
        whole = folder if stem in {"mod", "lib", "main"} else (*folder, stem)
    else:
        return
    yield from (whole[at:] for at in range(len(whole)))


def _python_imports(file: SnapshotFile) -> Iterator[tuple[str, ...]]:
    package = PurePosixPath(file.path).parts[:-1]
    for match in _PYTHON_IMPORT.finditer(file.text):
        if match["modules"]:
            for module in match["modules"].split(","):
                if words := module.split():
                    yield tuple(words[0].split("."))
            continue
        source = match["source"]
        dots = len(source) - len(source.lstrip("."))
        base = package[: len(package) - dots + 1] if dots else ()
        start = (*base, *(part for part in source.lstrip(".").split(".") if part))
        for name in match["names"].strip("()").split(","):
            if words := name.split():
                yield (*start, words[0])


def _rust_imports(file: SnapshotFile) -> Iterator[tuple[str, ...]]:
    parts = PurePosixPath(file.path).parts
    crate = parts[parts.index("src") - 1 : parts.index("src")] if "src" in parts[1:] else ()
    for match in _RUST_USE.finditer(file.text):
        first, *rest = match["path"].split("::")
        if first == "crate":
            yield (*crate, *rest)
        elif first not in {"std", "core", "alloc", "self", "super"}:
            yield (first, *rest)


def _resolve(names: Iterable[tuple[str, ...]], named: Mapping[tuple[str, ...], str]) -> set[str]:
    found: set[str] = set()
    for name in names:
        # The last parts may be things inside a file.
        for length in range(len(name), 0, -1):
            if path := named.get(name[:length]):
                found.add(path)
                break
    return found
