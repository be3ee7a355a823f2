"""``kedro estimate``: what a number of repositories will take, before anything is started."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click
from rich import get_console
from rich.table import Table

from the_block_llm.planning.estimate import ASSUMPTIONS, Stage, Workload, estimate
from the_block_llm.planning.params import PlanningParams
from the_block_llm.planning.simulation import Simulated, draw_sizes, simulate

# As git_ingest divides a large repository: some thousand commits of a few kB each.
_SHARE_MB: Final = 6.0
_MOST_SHARES: Final = 64
_CORES: Final = (8, 32, 128, 512)
HELP: Final = """Estimate time and cost of data and training.

\b
Examples:
  kedro estimate --repositories 400 --gigabytes 4 --cores 32 --gpus 8 --model llama-3.1-8b
  kedro estimate --repositories 10000 --simulate      the data alone, on more and more cores
"""
OPTIONS: Final[list[click.Parameter]] = [
    click.Option(["--repositories"], type=click.IntRange(min=1), required=True, help="How many."),
    click.Option(["--gigabytes"], type=click.FloatRange(min=0, min_open=True),
                 help="Kept text of all together; without it, what a simulation draws."),
    click.Option(["--cores"], type=click.IntRange(min=1), default=8, show_default=True,
                 help="That read and render."),
    click.Option(["--gpus"], type=click.IntRange(min=0), default=1, show_default=True,
                 help="That train; 0 for data only."),
    click.Option(["--epochs"], type=click.IntRange(min=1), default=1, show_default=True,
                 help="How often the rows are trained on."),
    click.Option(["--model"], help="Profile that is trained; by default the project's."),
    click.Option(["--simulate", "simulated"], is_flag=True,
                 help="Draw sizes and hand them out to 8 to 512 cores; shows the bottleneck."),
    click.Option(["--env", "-e"], metavar="ENV", help="Configuration environment."),
]  # fmt: skip


def run_estimate(
    parameters_of: Callable[[str | None], Mapping[str, Any]],
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
    """Print the estimate and what it assumes.

    Raises:
        ParameterError: No rate was measured for the profile.
    """
    parameters = parameters_of(env)
    planning = PlanningParams.model_validate(parameters["planning"])
    sizes = draw_sizes(
        repositories,
        planning.median_repository_mb,
        planning.repository_sigma,
        None if gigabytes is None else gigabytes * 1000,
    )
    if simulated:
        found = [
            simulate(sizes, n, planning.rates, _SHARE_MB, _MOST_SHARES)
            for n in sorted({*_CORES, cores})
        ]
        title = (
            f"{repositories:,} repositories, {sizes.sum() / 1000:,.1f} GB of kept text; the "
            f"middle one {float(sorted(sizes)[len(sizes) // 2]):.2f} MB, the largest "
            f"{sizes.max():,.0f} MB"
        )
        get_console().print(_simulated(title, found))
        return
    work = Workload(repositories, float(sizes.sum()), cores, gpus, epochs)
    stages = estimate(work, planning, model or str(parameters["model"]))
    title = (
        f"{repositories:,} repositories, {work.megabytes / 1000:,.1f} GB of kept text, "
        f"{cores} cores, {gpus} GPUs"
    )
    get_console().print(_table(title, stages))
    for assumption in ASSUMPTIONS:
        get_console().print(f"- {assumption}", highlight=False)


def _table(title: str, stages: Sequence[Stage]) -> Table:
    table = Table("stage", "hours", "core hours", "GPU hours", "cost", title=title)
    total = Stage(
        "together",
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


def _simulated(title: str, found: Sequence[Simulated]) -> Table:
    names = [stage.name for stage in found[0].stages]
    table = Table("cores", *(f"{name} h" for name in names), "cores busy", title=title)
    table.add_column("bottleneck", no_wrap=True)
    for one in found:
        table.add_row(
            f"{one.cores}", *(f"{stage.hours:,.2f}" for stage in one.stages),
            f"{one.ingest_efficiency:.0%}", one.bottleneck,
        )  # fmt: skip
    return table
