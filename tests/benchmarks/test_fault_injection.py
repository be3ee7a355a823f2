"""A few faults of the benchmark that injects them for hours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow(seconds=30)
def test_killed_runs_are_completed_with_the_undisturbed_result(tmp_path: Path) -> None:
    script = [sys.executable, "benchmarks/fault_injection.py", "--folder", str(tmp_path)]
    finished = subprocess.run(
        [*script, "--faults", "2", "--seed", "3", "--kinds", "kill"],
        cwd=ROOT, env=os.environ, check=False, text=True, timeout=600, capture_output=True,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    outcomes = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").open()]
    assert [outcome["outcome"] for outcome in outcomes] == ["repaired", "repaired"]
    assert "2 faults injected: 2 repaired" in finished.stdout
