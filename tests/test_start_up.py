"""Commands that need no model do not import slow libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.builders.project import copy_project

SLOW_MODULES = ("torch", "transformers", "peft", "bitsandbytes", "matplotlib", "fastapi")
# Runs each command from standard input in one process, then prints the slow modules imported.
RUN_EACH = f"""
import sys
from kedro.framework.cli.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = line.split()
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
print("imported:", *[name for name in {SLOW_MODULES!r} if name in sys.modules])
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"))


def run_each(project: Path, *commands: str) -> list[str]:
    completed = subprocess.run(
        [sys.executable, "-c", RUN_EACH], input="\n".join(commands), cwd=project, text=True,
        env={**os.environ, "COLUMNS": "120"}, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr[-3000:]
    *output, imported = completed.stdout.splitlines()
    assert imported == "imported:", "a slow module was imported"
    return output


def test_help_and_lists_import_no_slow_module(project: Path) -> None:
    output = run_each(
        project,
        "kedro registry list",
        "kedro run --help",
        "kedro ask --help",
        "kedro serve --help",
        "kedro rows --help",
        "kedro audit --help",
        "kedro adapters --help",
    )
    assert "- behavioral_eval" in output


def test_ingest_imports_no_slow_module(project: Path, small_repository: Path) -> None:
    output = run_each(
        project,
        # All nodes except the last, which imports matplotlib to draw plots.
        "kedro run --nodes=find_repositories,read_commits,read_files,compare_repositories,"
        "report_ingest "
        f"--params=repository={small_repository}",
    )
    assert (project / "data/08_reporting/ingest_report.json").is_file()
    assert [line for line in output if "WARNING" in line] == []
