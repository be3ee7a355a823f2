"""Complete runs with the layerwise engine, on the CPU."""

from pathlib import Path

import pytest
from tests.pipelines.qlora_train.interruption import kill_after_step
from tests.pipelines.qlora_train.jobs import (
    added_token_job,
    added_token_row,
    load_and_measure_loss,
    losses,
    replace_fields,
    step_trace,
    train_for_metrics,
)

from the_block_llm.errors import MemoryPlanError
from the_block_llm.models.resource_limits import MemoryLimits
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.launch.launcher import train_distributed
from the_block_llm.pipelines.qlora_train.loop.train_run import TrainingOutcome, train
from the_block_llm.pipelines.qlora_train.preflight.preflight import run_preflight

LAYERWISE = MemoryLimits(engine="layerwise")
STREAMED = MemoryLimits(engine="layerwise", layers="streamed", micro_batch_rows=2)


@pytest.fixture(scope="module")
def outcome(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingOutcome:
    return train(
        added_token_job(base, tmp_path_factory.mktemp("layerwise"), dropout=0.0, limits=LAYERWISE)
    )


def test_layerwise_training_matches_plain_training(
    outcome: TrainingOutcome, base: Path, tmp_path: Path
) -> None:
    plain, layerwise = (
        train_for_metrics(added_token_job(base, tmp_path, dropout=0.0)),
        outcome.metrics,
    )
    assert "plain engine" in plain["memory_plan"]
    assert "all layers resident" in layerwise["memory_plan"]
    assert losses(layerwise) == pytest.approx(losses(plain), rel=1e-5)
    assert layerwise["validation_loss_after"] == pytest.approx(
        plain["validation_loss_after"], rel=1e-5
    )


def test_saved_adapter_loads_with_the_measured_loss(
    outcome: TrainingOutcome, job: TrainingJob
) -> None:
    _, loss = load_and_measure_loss(outcome, job, added_token_row(3))
    assert loss == pytest.approx(outcome.metrics["validation_loss_after"], abs=1e-4)


def test_interrupted_run_resumes_with_identical_losses(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With dropout, whose masks are drawn again from the host's generator.
    uninterrupted = train_for_metrics(
        added_token_job(base, tmp_path / "uninterrupted", limits=STREAMED)
    )
    interrupted_job = added_token_job(base, tmp_path / "interrupted_job", limits=STREAMED)
    kill_after_step(monkeypatch, 3, interrupted_job)
    resumed = train_for_metrics(interrupted_job)
    assert resumed["resumed_from"] == "checkpoint-2"
    assert step_trace(resumed) == step_trace(uninterrupted)


@pytest.mark.slow
def test_two_processes_match_a_single_process(
    outcome: TrainingOutcome, base: Path, tmp_path: Path
) -> None:
    job = added_token_job(base, tmp_path, dropout=0.0, limits=LAYERWISE, n_processes=2)
    both = train_distributed(job).metrics
    assert both["n_processes"] == 2
    assert "all layers resident" in both["memory_plan"], "layerwise, not plain"
    assert losses(both) == pytest.approx(losses(outcome.metrics), rel=1e-4)
    assert both["validation_loss_after"] == pytest.approx(
        outcome.metrics["validation_loss_after"], rel=1e-4
    )


def test_preflight_shows_the_plan_and_rejects_a_run_that_does_not_fit(
    job: TrainingJob, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_preflight(replace_fields(job, limits=LAYERWISE), with_throughput=True)
    assert report["memory_items_bytes"]["adapter"] == 4 * report["trained_parameters"]
    assert report["speed"]["train_tokens_per_second"] > 0
    shown = capsys.readouterr().out
    assert "temporary buffers (" in shown
    assert "all layers resident" in shown
    tight = LAYERWISE.model_copy(update={"host_gib": 0.001})
    with pytest.raises(MemoryPlanError, match=r"needs at least .* GiB"):
        run_preflight(replace_fields(job, limits=tight), with_throughput=False)
