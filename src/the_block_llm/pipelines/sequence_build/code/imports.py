"""Import graph of the files of a snapshot."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from the_block_llm.pipelines.sequence_build.code.source_file import SourceFile

_PYTHON_IMPORT: Final = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<source>[.\w]+)[ \t]+import[ \t]+(?P<names>\([^)]*\)|[^\n#]+)"
    r"|import[ \t]+(?P<modules>[^\n#]+))",
    re.MULTILINE,
)
_RUST_USE: Final = re.compile(
    r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?use[ \t]+(?P<path>\w+(?:::\w+)*)", re.MULTILINE
)
_AMBIGUOUS: Final = ""  # several files have the same module name, so it resolves to none of them


class ImportGraph:
    """Resolves the imports of Python and Rust files to files of the same snapshot."""

    def __init__(self) -> None:
        self._imported: dict[str, list[tuple[str, ...]]] = {}
        self._path_by_module: dict[tuple[str, ...], str] = {}

    def add(self, file: SourceFile) -> None:
        """Add a file of the snapshot; its text is not kept."""
        for module in _module_names(file.path):
            is_ambiguous = module in self._path_by_module
            self._path_by_module[module] = _AMBIGUOUS if is_ambiguous else file.path
        if file.language == "Python":
            self._imported[file.path] = list(_python_imports(file))
        elif file.language == "Rust":
            self._imported[file.path] = list(_rust_imports(file))

    def resolve(self) -> dict[str, set[str]]:
        """Return for each importing path the imported paths.

        Imports from outside the snapshot and ambiguous module names are left out.
        """
        return {
            path: _resolve(names, self._path_by_module) - {path}
            for path, names in self._imported.items()
        }


def reverse_graph(depends_on: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return for each imported path the paths that import it."""
    used_by: dict[str, list[str]] = defaultdict(list)
    for path, others in depends_on.items():
        for other in others:
            used_by[other].append(path)
    return dict(used_by)


def dependencies_first(
    files: Iterable[SourceFile], depends_on: Mapping[str, Iterable[str]]
) -> Iterator[SourceFile]:
    """Order files by folder, subfolders first, and within a folder topologically by imports.

    Args:
        files: Files of one snapshot, sorted by path. Those of the current folder and its parents
            are held in memory.
        depends_on: For each path the paths that it imports.
    """
    open_folders: list[tuple[str, dict[str, SourceFile]]] = []
    for file in files:
        folder = _folder(file.path)
        while open_folders and not f"{folder}/".startswith(open_folders[-1][0]):
            yield from _topological_order(open_folders.pop()[1], depends_on)
        prefix = f"{folder}/" if folder else ""
        if not open_folders or open_folders[-1][0] != prefix:
            open_folders.append((prefix, {}))
        open_folders[-1][1][file.path] = file
    while open_folders:
        yield from _topological_order(open_folders.pop()[1], depends_on)


def _topological_order(
    files: Mapping[str, SourceFile], depends_on: Mapping[str, Iterable[str]]
) -> Iterator[SourceFile]:
    done: set[str] = set()
    for start in files:
        # Iterative: a chain of imports may exceed the recursion limit.
        stack = [(start, iter(depends_on.get(start, ())))]
        seen = {start}
        while stack and start not in done:
            path, imports = stack[-1]
            other = next(
                (i for i in imports if i in files and i not in done and i not in seen), None
            )
            if other is not None:
                seen.add(other)
                stack.append((other, iter(depends_on.get(other, ()))))
                continue
            # In an import cycle the file that is first alphabetically comes last.
            done.add(path)
            yield files[path]
            stack.pop()


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _module_names(path: str) -> Iterator[tuple[str, ...]]:
    """Yield the module names that may refer to a file: every suffix of its dotted path."""
    parts = PurePosixPath(path).parts
    stem = PurePosixPath(path).stem
    if path.endswith(".py"):
        module = parts[:-1] if stem == "__init__" else (*parts[:-1], stem)
    elif path.endswith(".rs"):
        # a/b/src/c/d.rs in crate b is b::c::d; mod.rs, lib.rs and main.rs name their folder.
        folder = tuple(part for part in parts[:-1] if part != "src")
        module = folder if stem in {"mod", "lib", "main"} else (*folder, stem)
    else:
        return
    yield from (module[start:] for start in range(len(module)))


def _python_imports(file: SourceFile) -> Iterator[tuple[str, ...]]:
    package = PurePosixPath(file.path).parts[:-1]
    for match in _PYTHON_IMPORT.finditer(file.text):
        if match["modules"]:
            for clause in match["modules"].split(","):
                if words := clause.split():
                    yield tuple(words[0].split("."))
            continue
        source = match["source"]
        dots = len(source) - len(source.lstrip("."))
        parent = package[: len(package) - dots + 1] if dots else ()
        module = (*parent, *(part for part in source.lstrip(".").split(".") if part))
        for clause in match["names"].strip("()").split(","):
            if words := clause.split():
                yield (*module, words[0])


def _rust_imports(file: SourceFile) -> Iterator[tuple[str, ...]]:
    parts = PurePosixPath(file.path).parts
    crate = parts[parts.index("src") - 1 : parts.index("src")] if "src" in parts[1:] else ()
    for match in _RUST_USE.finditer(file.text):
        first, *rest = match["path"].split("::")
        if first == "crate":
            yield (*crate, *rest)
        elif first not in {"std", "core", "alloc", "self", "super"}:
            yield (first, *rest)


def _resolve(
    names: Iterable[tuple[str, ...]], path_by_module: Mapping[tuple[str, ...], str]
) -> set[str]:
    found: set[str] = set()
    for name in names:
        # The last components may be names defined inside a module.
        for length in range(len(name), 0, -1):
            if path := path_by_module.get(name[:length]):
                found.add(path)
                break
    return found
