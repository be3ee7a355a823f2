"""Where modules may lie, and which may import Kedro: the core of every stage runs without it."""

import ast
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "the_block_llm"
MAY_KNOW_KEDRO = {
    "__main__.py",
    "cli.py",
    "project/config_loader.py",
    "hooks.py",
    "pipeline_registry.py",
    "viz/site.py",
    "project/run_options.py",
    "project/run_summary.py",
    "settings.py",
    "viz/statistics.py",
}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def may_know_kedro(path: Path) -> bool:
    inside = path.relative_to(SOURCE)
    return (
        inside.as_posix() in MAY_KNOW_KEDRO
        or inside.parts[0] == "datasets"
        or (inside.parts[0] == "pipelines" and inside.name in {"nodes.py", "pipeline.py"})
    )


def test_only_the_frame_imports_kedro() -> None:
    knowing = {p for p in SOURCE.rglob("*.py") if imported(p) & {"kedro", "kedro_datasets"}}
    assert {p.relative_to(SOURCE).as_posix() for p in knowing if not may_know_kedro(p)} == set()
    assert any(p.name == "pipeline.py" for p in knowing), "the search itself finds something"


def test_tables_are_read_without_kedro() -> None:
    # A training process of its own reads them.
    assert not imported(SOURCE / "datasets/parquet_table.py") & {"kedro", "kedro_datasets"}


ROOT = SOURCE.parents[1]
MOST_MODULES = 12


@pytest.mark.parametrize("tree", ["src", "tests", "benchmarks", "docs"])
def test_a_folder_holds_at_most_twelve_modules(tree: str) -> None:
    modules = [p for p in (ROOT / tree).rglob("*.py") if p.name != "__init__.py"]
    assert modules
    count = Counter(p.parent.relative_to(ROOT).as_posix() for p in modules)
    assert {folder: n for folder, n in count.items() if n > MOST_MODULES} == {}


def test_every_package_says_in_its_first_line_what_it_is_for() -> None:
    packages = {p.parent for p in SOURCE.rglob("*.py")}
    assert len(packages) > 40
    silent = []
    for package in sorted(packages):
        start = package / "__init__.py"
        sentence = (
            ast.get_docstring(ast.parse(start.read_text("utf-8"))) if start.exists() else None
        )
        if not sentence or not sentence.splitlines()[0].endswith((".", ":")):
            silent.append(package.relative_to(SOURCE).as_posix())
    assert silent == []
