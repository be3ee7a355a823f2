"""Whole runs through the layerwise engine, which computes on a CPU where it is asked for."""

from pathlib import Path

import pytest
from tests.pipelines.qlora_train.jobs import (
    change,
    loaded_with_loss,
    losses,
    marked_job,
    marked_row,
    trace,
    trained,
)
from tests.pipelines.qlora_train.killing import kill_at

from the_block_llm.errors import MemoryPlanError
from the_block_llm.models.resource_limits import MemoryLimits
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.launch.launcher import train_in_processes
from the_block_llm.pipelines.qlora_train.loop.run import TrainingOutcome, train
from the_block_llm.pipelines.qlora_train.preflight.preflight import preflight

LAYERWISE = MemoryLimits(engine="layerwise")
STREAMED = MemoryLimits(engine="layerwise", layers="streamed", micro_batch_rows=2)


@pytest.fixture(scope="module")
def outcome(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingOutcome:
    return train(marked_job(base, tmp_path_factory.mktemp("ours"), dropout=0.0, limits=LAYERWISE))


def test_it_learns_what_plain_training_learns(
    outcome: TrainingOutcome, base: Path, tmp_path: Path
) -> None:
    plain, ours = trained(marked_job(base, tmp_path, dropout=0.0)), outcome.metrics
    assert "plain engine" in plain["memory_plan"]
    assert "all layers resident" in ours["memory_plan"]
    assert losses(ours) == pytest.approx(losses(plain), rel=1e-5)
    assert ours["validation_loss_after"] == pytest.approx(plain["validation_loss_after"], rel=1e-5)


def test_what_it_saves_is_an_adapter_like_any_other(
    outcome: TrainingOutcome, job: TrainingJob
) -> None:
    _, loss = loaded_with_loss(outcome, job, marked_row(3))
    assert loss == pytest.approx(outcome.metrics["validation_loss_after"], abs=1e-4)


def test_a_run_cut_off_resumes_with_the_same_losses(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With dropout: its masks come again from the host's generator.
    whole = trained(marked_job(base, tmp_path / "whole", limits=STREAMED))
    cut = marked_job(base, tmp_path / "cut", limits=STREAMED)
    kill_at(monkeypatch, 3, cut)
    resumed = trained(cut)
    assert resumed["resumed_from"] == "checkpoint-2"
    assert trace(resumed) == trace(whole)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(
    outcome: TrainingOutcome, base: Path, tmp_path: Path
) -> None:
    job = marked_job(base, tmp_path, dropout=0.0, limits=LAYERWISE, n_processes=2)
    both = train_in_processes(job).metrics
    assert both["n_processes"] == 2
    assert "all layers resident" in both["memory_plan"], "not the plain way"
    assert losses(both) == pytest.approx(losses(outcome.metrics), rel=1e-4)
    assert both["validation_loss_after"] == pytest.approx(
        outcome.metrics["validation_loss_after"], rel=1e-4
    )


def test_the_preflight_shows_the_plan_and_refuses_what_would_not_fit(
    job: TrainingJob, capsys: pytest.CaptureFixture[str]
) -> None:
    report = preflight(change(job, limits=LAYERWISE), with_speed=True)
    assert report["memory_items_bytes"]["adapter"] == 4 * report["trained_parameters"]
    assert report["speed"]["train_tokens_per_second"] > 0
    shown = capsys.readouterr().out
    assert "work (" in shown
    assert "all layers resident" in shown
    tight = LAYERWISE.model_copy(update={"host_gib": 0.001})
    with pytest.raises(MemoryPlanError, match=r"needs at least .* GiB"):
        preflight(change(job, limits=tight), with_speed=False)
