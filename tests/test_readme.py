"""The commands of the README, run unchanged in a fresh clone.

Single pipelines run in test_end_to_end.py and docs/test_commands.py, with a smaller model.
"""

import os
import subprocess
from pathlib import Path

import pytest
from tests.builders.tiny_llama import save_tiny_llama

from the_block_llm.models.adapter.manifest import list_adapters

ROOT = Path(__file__).resolve().parents[1]
# The full demo takes minutes; these values run the same steps on less data.
SMALL = (
    "sequence_build.context_tokens=256,qlora_train.max_rows=2,qlora_train.max_epochs=1,"
    "qlora_train.eval_steps=1,qlora_train.save_steps=1,qlora_train.probe_new_tokens=8,"
    "behavioral_eval.max_items=1,behavioral_eval.budgets.cpu.new_tokens=8,"
    "behavioral_eval.budgets.cpu.held_out_rows=4,behavioral_eval.budgets.cpu.probes=2"
)
SMALL_DEMO = f"{SMALL},models.smollm2-135m.training.max_validation_rows=2"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "the_block_llm"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    # The installed environment is reused: make test has already installed it.
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def run(folder: Path, command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment |= {
        "PATH": f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
        "COLUMNS": "120",
    }
    completed = subprocess.run(
        command, shell=True, cwd=folder, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stdout[-4000:]
    return completed.stdout


@pytest.mark.slow(seconds=300)
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the project's own git history")
@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="needs the .venv of make setup")
def test_demo_then_another_repository_and_model(
    clone: Path, small_repository: Path, converted_smollm2: Path, tmp_path: Path
) -> None:
    (clone / ".venv/.installed").touch()
    # The converted weights, which a first run would create.
    (clone / "data/06_models/base").symlink_to(converted_smollm2)
    output = run(clone, f"make demo PARAMS={SMALL_DEMO}")
    assert "verdict" in output
    assert "behavioral_report.html" in output
    assert "Traceback" not in output
    adapters = clone / "data/06_models/smollm2-135m"
    assert len(list_adapters(adapters)) == 1

    listed = run(clone, "kedro registry list")
    names = ("__default__", "git_ingest", "sequence_build", "qlora_train", "behavioral_eval")
    assert all(f"- {name}" in listed for name in names)

    # With a smaller model, configured in the environment test.
    folder = save_tiny_llama(tmp_path / "tiny-llama")
    run(clone, f"kedro run --env=test --params=repository={small_repository},"
               f"models.tiny.folder={folder},{SMALL}")  # fmt: skip
    assert len(list_adapters(clone / "data/06_models/tiny")) == 1
    status = run(clone, "git status --porcelain")
    assert status == "", "a run leaves no untracked files in the checkout"
