"""Commands of the documentation, on a small repository with a tiny model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.models.adapter.manifest import list_adapters

# Runs all commands in one process, so that torch is imported once.
RUN_EACH = """
import logging, sys
from kedro.framework.cli.cli import main
for line in sys.stdin.read().splitlines():
    print(f"$ {line}", flush=True)
    sys.argv = line.split()
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.mark.slow(seconds=200)
def test_commands_that_need_a_finished_run(finished_project: Path, small_repository: Path) -> None:
    adapters = finished_project / "data/06_models/tiny"
    held_out = next(
        row["document_id"]
        for row in ParquetTable(finished_project / "data/04_feature/documents/tiny").rows(
            ["document_id", "split"]
        )
        if row["split"] == "held_out"
    )
    run_each(
        finished_project,
        f"kedro run --pipelines=git_ingest,sequence_build --params=repository={small_repository}",
        "kedro run --pipeline=qlora_train --params=qlora_train.preflight_only=true",
        "kedro run --pipeline=qlora_train --params=qlora_train.max_steps=2",
        "kedro run --nodes=check_suites,plan_probes,judge,render_page",
        "kedro run --pipeline=behavioral_eval",
        "kedro run --pipeline=export"
        " --params=export.min_token_agreement=0.5,export.max_nll_difference=1",
        "kedro run --tags=report",
        "kedro training-job data/06_models/.job --processes=2",
        "kedro rows --row 3",
        "kedro rows --samples 10",
        "kedro audit",
        "kedro audit --removed",
        f"kedro audit {held_out} --neighbours 2",
        "kedro estimate --repositories 3 --gigabytes 0.1 --model llama-3.1-8b",
        "kedro ask --new-tokens 2 Where?",
        "kedro adapters list --all",
        "kedro adapters prune --keep 9 --yes",
    )
    first, second, *_ = [adapter.path.name for adapter in list_adapters(adapters)]
    output = run_each(finished_project, f"kedro adapters compare {first} {second}")
    assert "max_steps" in output


@pytest.mark.slow
def test_commands_for_several_repositories(
    tmp_path: Path, finished_project: Path, small_repository: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(finished_project, project)
    clones = tmp_path / "clones"
    shutil.copytree(small_repository, clones / "ledger")
    run_each(
        project,
        f"kedro run --pipelines=git_ingest,sequence_build --params=repositories={clones}",
        "kedro run --pipelines=sequence_build --params=sequence_build.only_repository=ledger",
    )
    assert (project / "data/05_model_input/train/tiny@ledger").is_dir()


def run_each(project: Path, *lines: str) -> str:
    completed = subprocess.run(
        [sys.executable, "-c", RUN_EACH], input="\n".join(lines), cwd=project, text=True,
        env={**os.environ, "KEDRO_ENV": "test", "COLUMNS": "160"}, check=False, timeout=400,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stdout[-4000:]
    assert "Traceback" not in completed.stdout
    return completed.stdout
