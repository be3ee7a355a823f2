"""Kedro is the frame, not the content: the core of every stage runs without it."""

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "the_block_llm"
MAY_KNOW_KEDRO = {
    "cli.py",
    "configuration.py",
    "hooks.py",
    "pipeline_registry.py",
    "graph_site.py",
    "run_options.py",
    "run_summary.py",
    "settings.py",
    "viz_statistics.py",
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
