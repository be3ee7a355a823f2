"""The examples in docstrings are correct."""

import doctest
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
MODULES_WITH_EXAMPLES = sorted(
    p for p in SOURCE.rglob("*.py") if ">>> " in p.read_text(encoding="utf-8")
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


@pytest.mark.parametrize("name", [module_name(path) for path in MODULES_WITH_EXAMPLES])
def test_docstring_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
