"""Commands that compute nothing do not wait for the libraries that compute."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.builders.project import copy_project

SLOW_TO_IMPORT = ("torch", "transformers", "peft", "bitsandbytes", "matplotlib", "fastapi")
# Runs each command of standard input in this one process, then says what was imported.
RUN_EACH = f"""
import sys
from kedro.framework.cli.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = line.split()
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
print("imported:", *[name for name in {SLOW_TO_IMPORT!r} if name in sys.modules])
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"))


def run_each(project: Path, *commands: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH], input="\n".join(commands), cwd=project, text=True,
        env={**os.environ, "COLUMNS": "120"}, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    *shown, imported = done.stdout.splitlines()
    assert imported == "imported:", "these need not be imported yet"
    return shown


def test_help_and_lists_import_no_slow_module(project: Path) -> None:
    shown = run_each(
        project,
        "kedro registry list",
        "kedro run --help",
        "kedro ask --help",
        "kedro serve --help",
        "kedro rows --help",
        "kedro audit --help",
        "kedro adapters --help",
    )
    assert "- behavioral_eval" in shown


def test_ingest_imports_no_slow_module(project: Path, small_repository: Path) -> None:
    shown = run_each(
        project,
        # All but the last node, which draws, and imports matplotlib for it.
        "kedro run --nodes=find_repositories,read_commits,read_files,compare_repositories,"
        "report_ingest "
        f"--params=repository={small_repository}",
    )
    assert (project / "data/08_reporting/ingest_report.json").is_file()
    assert [line for line in shown if "WARNING" in line] == []  # nothing here matters to anybody
