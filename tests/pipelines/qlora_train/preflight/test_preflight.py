"""The preflight report, and its command line."""

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from tests.builders.project import copy_project
from tests.builders.tiny_llama import save_tiny_llama
from tests.pipelines.qlora_train.jobs import (
    TEXT,
    replace_fields,
    row,
    save_rows,
    step_trace,
    train_for_metrics,
)

from the_block_llm.datasets.report_files import write_report
from the_block_llm.errors import AdapterTargetError, MemoryPlanError, StorageError
from the_block_llm.models.adapter.adapters import attach_adapter
from the_block_llm.models.adapter.manifest import list_adapters
from the_block_llm.models.base.quantized_loading import load_base_model
from the_block_llm.models.resource_limits import MemoryLimits
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop import train_run
from the_block_llm.pipelines.qlora_train.preflight import disk_space
from the_block_llm.pipelines.qlora_train.preflight.preflight import run_preflight
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import copy_trainable_parameters

_Usage = namedtuple("_Usage", "total used free")


def test_preflight_report_matches_the_run(
    job: TrainingJob, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_preflight(job, with_throughput=True)
    assert report["epoch_plan"]["steps"] == 16
    assert report["longest_row_tokens"] == 70
    model = attach_adapter(load_base_model(job.profile), job.profile, seed=0)
    n_trained = sum(tensor.numel() for tensor in copy_trainable_parameters(model).values())
    assert report["trained_parameters"] == n_trained
    assert report["speed"]["train_tokens_per_second"] > 0
    assert report["expected_seconds"] > 0
    assert not (job.work_folder / "tiny").exists(), "nothing is written yet"
    shown = capsys.readouterr().out
    assert "16 of up to 70 tokens" in shown
    assert "about" in shown
    items = report["memory_items_bytes"]
    assert items["optimizer"] == 8 * n_trained, "two moments in float32"
    assert sum(items.values()) < report["memory_free_bytes"]
    assert "plain engine, 1 row at a time" in shown
    assert "process before training" in shown


def test_run_that_does_not_fit_host_memory_is_rejected(job: TrainingJob) -> None:
    tight = MemoryLimits(host_gib=0.001)
    with pytest.raises(MemoryPlanError, match=r"rows of 70 tokens needs 0\.\d+ GiB.*0\.00 GiB"):
        run_preflight(replace_fields(job, limits=tight), with_throughput=False)
    with pytest.raises(MemoryPlanError):
        train_for_metrics(replace_fields(job, limits=tight))


def test_predicted_peak_memory_matches_the_measured_peak(job: TrainingJob) -> None:
    metrics = train_for_metrics(replace_fields(job, max_steps=2, micro_batch_rows=2))
    assert "2 rows at a time" in metrics["memory_plan"]
    # Mostly the process itself; tests/models/plain/test_memory_plan.py tests what a pass adds.
    assert metrics["predicted_peak_gib"] == pytest.approx(metrics["peak_memory_gib"], rel=0.1)


def test_wrong_targets_are_rejected_without_loading_weights(
    job: TrainingJob, base: Path, tmp_path: Path
) -> None:
    config_only = tmp_path / "config-only"
    config_only.mkdir()
    (config_only / "config.json").write_bytes((base / "config.json").read_bytes())
    lora = job.profile.lora.model_copy(update={"target_modules": ("c_fc",)})
    profile = job.profile.model_copy(update={"lora": lora, "folder": str(config_only)})
    with pytest.raises(AdapterTargetError, match=r"c_fc.*match no layer of tiny.*gate_proj"):
        run_preflight(job.model_copy(update={"profile": profile}), with_throughput=False)


def test_insufficient_disk_space_names_the_number_of_checkpoints_that_fits(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each checkpoint and the adapter take about 20 MB: five of six fit.
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: _Usage(10**9, 0, 110 * 2**20))
    with pytest.raises(StorageError, match=r"5 checkpoints of 20 MB.*110 MB are free.*keep 2 "):
        run_preflight(job, with_throughput=False)
    run_preflight(replace_fields(job, checkpoints_kept=2), with_throughput=False)


def test_duration_estimate_does_not_change_the_losses(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    short = replace_fields(job, max_steps=4)
    untimed = train_for_metrics(short)
    assert untimed["expected_seconds"] is None
    monkeypatch.setattr(train_run, "_LONG_RUN_MICRO_BATCHES", 4)
    caplog.set_level("INFO")
    timed = train_for_metrics(short)
    assert "left, at" in caplog.text
    assert timed["expected_seconds"] > 0
    assert step_trace(timed) == step_trace(untimed)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with training and validation rows."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    save_tiny_llama(folder / "tiny")
    rows = [row(TEXT[i:]) for i in range(16)]
    save_rows(folder / "data/05_model_input/train/tiny", rows)
    save_rows(folder / "data/05_model_input/validation/tiny", rows[:1])
    facts = {"added_tokens": {}, "curriculum": [], "context_tokens": 256, "overlap_tokens": 32}
    (folder / "data/05_model_input/row_facts").mkdir()
    write_report(folder / "data/05_model_input/row_facts/tiny.json", facts)
    (folder / "data/01_raw").mkdir()
    write_report(folder / "data/01_raw/repository.json", {"head": "0" * 40})
    return folder


def kedro(project: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "kedro", *arguments],
        cwd=project, capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "200", "KEDRO_ENV": "test", **environment},
    )  # fmt: skip


def run_training(project: Path, **parameters: Any) -> "subprocess.CompletedProcess[str]":
    overrides = ",".join(f"{name.replace('__', '.')}={value}" for name, value in parameters.items())
    params = f"models.tiny.folder={project / 'tiny'},{overrides}"
    return kedro(project, "run", "--pipeline=qlora_train", f"--params={params}")


@pytest.mark.slow
def test_preflight_only_exits_with_0_and_trains_nothing(project: Path) -> None:
    done = run_training(project, qlora_train__preflight_only="true")
    assert done.returncode == 0, done.stderr
    assert "Nothing was trained" in done.stderr
    assert "Error" not in done.stderr
    report = json.loads((project / "data/08_reporting/training_preflight.json").read_text())
    assert report["expected_seconds"] > 0
    assert not list_adapters(project / "data/06_models/tiny")
