import numpy as np
import pytest
from tests.builders.project import ROOT

from the_block_llm.errors import ParameterError
from the_block_llm.planning.command import run_estimate
from the_block_llm.planning.estimate import Workload, estimate
from the_block_llm.planning.params import PlanningParams, Rates
from the_block_llm.planning.simulation import draw_sizes, simulate
from the_block_llm.project.config_loader import project_parameters

RATES = Rates(
    ingest_cpu_s_per_repository=1.0, ingest_cpu_s_per_mb=2.0, screening_cpu_s_per_mb=1.0,
    rendering_cpu_s_per_mb=4.0, packing_cpu_s_per_mb=0.5, training_tokens_per_mb=1000,
    training=({"profile": "m", "device": "GPU", "tokens_per_second": 100},),
)  # fmt: skip
PLANNING = PlanningParams(
    rates=RATES, core_hour_price=0.1, gpu_hour_price=2.0, median_repository_mb=1.0,
    repository_sigma=1.5,
)  # fmt: skip


def test_the_estimate_equals_sums_by_hand() -> None:
    workload = Workload(repositories=1600, megabytes=3600, cores=4, gpus=2, epochs=3)
    stages = {stage.name: stage for stage in estimate(workload, PLANNING, "m")}
    hours = {name: stage.hours for name, stage in stages.items()}
    assert hours == pytest.approx({
        "ingest": (1600 + 7200) / 4 / 3600, "screening": 0.25, "rendering": 1.0,
        "packing": 0.125,
        "training": 15.0,
    })  # fmt: skip
    # Four cores screen for a quarter of an hour; two GPUs train for fifteen hours.
    assert stages["screening"].price == pytest.approx(0.1)
    assert (stages["training"].gpu_hours, stages["training"].price) == pytest.approx((30.0, 60.0))


def test_without_a_gpu_only_the_data_is_estimated() -> None:
    stages = estimate(Workload(1, 1, 1, gpus=0, epochs=1), PLANNING, "unknown")
    assert [stage.name for stage in stages] == ["ingest", "screening", "rendering", "packing"]


def test_a_profile_without_a_measured_speed_is_an_error() -> None:
    remedy = "measured for unknown.*kedro run --params=model=unknown,qlora_train.preflight_only"
    with pytest.raises(ParameterError, match=remedy):
        estimate(Workload(1, 1, 1, gpus=1, epochs=1), PLANNING, "unknown")


def test_equal_repositories_keep_every_core_busy() -> None:
    result = simulate(np.full(64, 3.0), cores=8, rates=RATES, shard_mb=100.0, max_shards=4)
    assert result.ingest_efficiency == pytest.approx(1.0)
    assert result.stages[0].hours == pytest.approx(64 * 7 / 8 / 3600)


def test_a_very_large_repository_is_the_bottleneck_unless_it_is_sharded() -> None:
    sizes = np.array([1000.0] + [1.0] * 50)
    undivided = simulate(sizes, cores=10, rates=RATES, shard_mb=5000.0, max_shards=64)
    sharded = simulate(sizes, cores=10, rates=RATES, shard_mb=10.0, max_shards=64)
    assert undivided.stages[0].hours == pytest.approx(2001 / 3600)
    assert undivided.ingest_efficiency < 0.15
    assert sharded.ingest_efficiency > 0.9


def test_with_many_cores_rendering_the_largest_repository_is_the_bottleneck() -> None:
    sizes = draw_sizes(2000, 1.0, 1.5, None)
    rates = RATES.model_copy(update={"training_tokens_per_mb": 1e6})
    one_core, many_cores = (simulate(sizes, cores, rates, 6.0, 64) for cores in (1, 4096))
    assert one_core.stages[2].hours == pytest.approx(sizes.sum() * 4.0 / 3600)
    assert many_cores.bottleneck == "rendering"
    assert many_cores.stages[2].hours == pytest.approx(sizes.max() * 4.0 / 3600)


def test_rows_are_packed_by_windows_of_the_corpus() -> None:
    # Ten windows of 16 Mi tokens on four cores: at most three on one core.
    sizes = np.array([10 * 16 * 1024**2 / 1000])
    packing = simulate(sizes, 4, RATES, 6.0, 64).stages[3]
    assert packing.hours == pytest.approx(sizes[0] * 0.5 / 10 * 3 / 3600)


def test_drawn_sizes_have_the_requested_median_spread_and_total() -> None:
    sizes = draw_sizes(10_001, 0.5, 1.9, None)
    assert np.median(sizes) == pytest.approx(0.5, rel=0.1)
    assert np.percentile(sizes, 99) == pytest.approx(0.5 * np.exp(1.9 * 2.326), rel=0.25)
    assert draw_sizes(100, 0.5, 1.9, 4000.0).sum() == pytest.approx(4000.0)


@pytest.mark.parametrize(("simulated", "expected"), [(False, "training"), (True, "bottleneck")])
def test_the_command_prints_a_table(
    capsys: pytest.CaptureFixture[str], simulated: bool, expected: str
) -> None:
    run_estimate(
        lambda env: project_parameters(ROOT, env), repositories=400, gigabytes=4.0, cores=32,
        gpus=8, epochs=1, model="llama-3.1-8b", simulated=simulated, env="base",
    )  # fmt: skip
    out = capsys.readouterr().out
    assert expected in out
    assert "400 repositories, 4.0 GB" in out
