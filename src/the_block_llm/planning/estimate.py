"""Time and cost of data and training: a few products, each with the assumption behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from the_block_llm.errors import ParameterError
from the_block_llm.planning.params import PlanningParams, Rates

ASSUMPTIONS: Final = """\
Gigabytes are kept text: files at the ref and patches of the history, after everything that is \
left out. The ingest report of a few repositories tells how much yours keep.
Cores are like those the rates were measured on, and the disk keeps up with them.
The data stages share out evenly over the cores; --simulate looks at large repositories. Without \
execution.engine=ray screening and packing take two cores, or execution.cpus of them.
Several GPUs train as fast as one times their number; two were measured at 1.87 times one.
A first run. Later ones read, render and tokenise only what is new.
""".splitlines()


@dataclass(frozen=True)
class Workload:
    """What is to be done, with what."""

    repositories: int
    megabytes: float
    """Kept text of all together."""
    cores: int
    gpus: int
    epochs: int


@dataclass(frozen=True)
class Stage:
    """One stage's share of the time and the cost."""

    name: str
    hours: float
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    price: float = 0.0


def data_stages(
    work: Workload, rates: Rates, simulated_s: Mapping[str, float] = MappingProxyType({})
) -> list[Stage]:
    """Time of the data pipelines, without prices.

    Args:
        work: Size and cores.
        rates: Measured.
        simulated_s: Wall time of stages of which it is known better than by dividing.
    """
    megabytes = work.megabytes
    ingest_cpu_s = (
        work.repositories * rates.ingest_cpu_s_per_repository
        + megabytes * rates.ingest_cpu_s_per_mb
    )
    seconds = {
        "ingest": ingest_cpu_s / work.cores,
        "screening": megabytes * rates.screening_cpu_s_per_mb / work.cores,
        "rendering": megabytes * rates.rendering_cpu_s_per_mb / work.cores,
        "packing": megabytes * rates.packing_cpu_s_per_mb / work.cores,
    } | dict(simulated_s)
    return [
        # Cores that wait for the last one are paid for as well.
        Stage(name, wall_s / 3600, core_hours=wall_s * work.cores / 3600)
        for name, wall_s in seconds.items()
    ]


def estimate(work: Workload, planning: PlanningParams, profile: str) -> list[Stage]:
    """Time and cost of every stage.

    Args:
        work: What is to be done, with what; no GPU: data only.
        planning: Rates and prices.
        profile: That is trained.

    Raises:
        ParameterError: No rate was measured for the profile.
    """
    rates = planning.rates
    stages = [
        Stage(s.name, s.hours, s.core_hours, price=s.core_hours * planning.core_hour_price)
        for s in data_stages(work, rates)
    ]
    if not work.gpus:
        return stages
    speeds = {speed.profile: speed.tokens_per_second for speed in rates.training}
    speed = speeds.get(profile)
    if speed is None:
        known = ", ".join(sorted(speeds))
        raise ParameterError(
            f"No training speed was measured for {profile}. Choose one of {known} (--model), or "
            "data alone (--gpus 0); or measure it with `kedro run --pipeline=qlora_train "
            "--params=qlora_train.preflight_only=true` and add it to planning.rates.training."
        )
    tokens = work.megabytes * rates.training_tokens_per_mb * work.epochs
    gpu_hours = tokens / speed / 3600
    stages.append(
        Stage(
            "training",
            gpu_hours / work.gpus,
            gpu_hours=gpu_hours,
            price=gpu_hours * planning.gpu_hour_price,
        )
    )
    return stages
