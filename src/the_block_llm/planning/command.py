"""``kedro estimate``: time and cost of a number of repositories, before a run is started."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click
from rich import get_console
from rich.table import Table

from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.planning.estimate import (
    ASSUMPTIONS,
    Stage,
    Workload,
    estimate,
    training_speed,
)
from the_block_llm.planning.params import PlanningParams
from the_block_llm.planning.simulation import SimulationResult, draw_sizes, simulate

# As git_ingest shards a large repository: some thousand commits of a few kB each.
_SHARD_MB: Final = 6.0
_MAX_SHARDS: Final = 64
_SIMULATED_CORES: Final = (8, 32, 128, 512)
HELP: Final = """Estimate time and cost of data preparation and training.

\b
Examples:
  kedro estimate --repositories 400 --gigabytes 4 --cores 32 --gpus 8 --model llama-3.1-8b
  kedro estimate --repositories 10000 --simulate      data only, with 8 to 512 cores
"""
OPTIONS: Final[list[click.Parameter]] = [
    click.Option(["--repositories"], type=click.IntRange(min=1), required=True,
                 help="Number of repositories."),
    click.Option(["--gigabytes"], type=click.FloatRange(min=0, min_open=True),
                 help="Kept text of all repositories; by default the total of the drawn sizes."),
    click.Option(["--cores"], type=click.IntRange(min=1), default=8, show_default=True,
                 help="For the data pipelines."),
    click.Option(["--gpus"], type=click.IntRange(min=0), default=1, show_default=True,
                 help="For training; 0 for data only."),
    click.Option(["--epochs"], type=click.IntRange(min=1), default=1, show_default=True,
                 help="Training epochs."),
    click.Option(["--model"], help="Profile to train; by default the project's."),
    click.Option(["--simulate", "simulated"], is_flag=True,
                 help="Draw repository sizes, simulate 8 to 512 cores, show the bottleneck."),
    click.Option(["--env", "-e"], metavar="ENV", help="Configuration environment."),
]  # fmt: skip


def run_estimate(
    load_parameters: Callable[[str | None], Mapping[str, Any]],
    *,
    repositories: int,
    gigabytes: float | None,
    cores: int,
    gpus: int,
    epochs: int,
    model: str | None,
    simulated: bool,
    env: str | None,
) -> None:
    """Print the estimate and its assumptions.

    Args:
        load_parameters: Returns the project's parameters in a configuration environment.
        repositories: Number of repositories.
        gigabytes: Kept text of all repositories; None: the total of the drawn sizes.
        cores: For the data pipelines.
        gpus: For training; 0 for data only.
        epochs: Of training.
        model: Profile to train; None: the project's.
        simulated: Schedule drawn repository sizes on several numbers of cores instead.
        env: Configuration environment.

    Raises:
        ParameterError: No training speed was measured for the profile.
        ProfileError: There is no such profile.
    """
    parameters = load_parameters(env)
    planning = PlanningParams.model_validate(parameters["planning"])
    sizes = draw_sizes(
        repositories,
        planning.median_repository_mb,
        planning.repository_sigma,
        None if gigabytes is None else gigabytes * 1000,
    )
    if simulated:
        results = [
            simulate(sizes, n, planning.rates, _SHARD_MB, _MAX_SHARDS)
            for n in sorted({*_SIMULATED_CORES, cores})
        ]
        title = (
            f"{repositories:,} repositories, {sizes.sum() / 1000:,.1f} GB of kept text; "
            f"median {float(sorted(sizes)[len(sizes) // 2]):.2f} MB, largest "
            f"{sizes.max():,.0f} MB"
        )
        get_console().print(_simulation_table(title, results))
        return
    workload = Workload(repositories, float(sizes.sum()), cores, gpus, epochs)
    profiles = ModelProfiles.model_validate(parameters["models"])
    profile = resolve_profile(profiles, model or str(parameters["model"])).name
    stages = estimate(workload, planning, profile)
    title = (
        f"{repositories:,} repositories, {workload.megabytes / 1000:,.1f} GB of kept text, "
        f"{cores} cores, {gpus} GPUs"
    )
    get_console().print(_estimate_table(title, stages))
    assumptions = list(ASSUMPTIONS)
    if gpus:
        speed = training_speed(planning.rates, profile)
        assumptions.append(
            f"Each GPU trains {profile} at {speed.tokens_per_second:,.0f} tokens/s, measured on "
            f"one {speed.device}. qlora_train.preflight_only=true measures yours."
        )
    for assumption in assumptions:
        get_console().print(f"- {assumption}", highlight=False)


def _estimate_table(title: str, stages: Sequence[Stage]) -> Table:
    table = Table("stage", "hours", "core hours", "GPU hours", "cost", title=title)
    total = Stage(
        "total",
        sum(s.hours for s in stages),
        sum(s.core_hours for s in stages),
        sum(s.gpu_hours for s in stages),
        sum(s.price for s in stages),
    )
    for stage in (*stages, total):
        table.add_row(
            stage.name, f"{stage.hours:,.2f}", f"{stage.core_hours:,.1f}",
            f"{stage.gpu_hours:,.1f}", f"{stage.price:,.2f}",
        )  # fmt: skip
    return table


def _simulation_table(title: str, results: Sequence[SimulationResult]) -> Table:
    names = [stage.name for stage in results[0].stages]
    table = Table("cores", *(f"{name} h" for name in names), "cores busy", title=title)
    table.add_column("bottleneck", no_wrap=True)
    for result in results:
        table.add_row(
            f"{result.cores}", *(f"{stage.hours:,.2f}" for stage in result.stages),
            f"{result.ingest_efficiency:.0%}", result.bottleneck,
        )  # fmt: skip
    return table
