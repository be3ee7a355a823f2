"""Estimate time and cost of data preparation and training from measured rates."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from the_block_llm.errors import ParameterError
from the_block_llm.planning.params import PlanningParams, Rates, TrainingSpeed

ASSUMPTIONS: Final = """\
Gigabytes are kept text: files at the ref and patches of the history, after filtering. The ingest \
report of a few repositories shows how much of yours is kept.
Cores are as fast as those the rates were measured on, and the disk is not a bottleneck.
The data stages are spread evenly over the cores; --simulate models large repositories. Without \
execution.engine=ray, screening and packing use two cores, or execution.cpus of them.
Training speed scales linearly with the number of GPUs; two were measured at 1.87 times one.
It is a first run. Later ones read, render and tokenize only what is new.
""".splitlines()


@dataclass(frozen=True)
class Workload:
    """Size of the corpus, and the hardware."""

    repositories: int
    megabytes: float
    """Kept text of all repositories."""
    cores: int
    gpus: int
    epochs: int


@dataclass(frozen=True)
class Stage:
    """Time and cost of one stage."""

    name: str
    hours: float
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    price: float = 0.0


def data_stages(
    workload: Workload, rates: Rates, simulated_s: Mapping[str, float] = MappingProxyType({})
) -> list[Stage]:
    """Return the time of the data pipelines, without prices.

    Args:
        workload: Size and cores.
        rates: Measured rates.
        simulated_s: Wall time of stages that were simulated; for these it replaces the estimate.
    """
    megabytes = workload.megabytes
    ingest_cpu_s = (
        workload.repositories * rates.ingest_cpu_s_per_repository
        + megabytes * rates.ingest_cpu_s_per_mb
    )
    seconds = {
        "ingest": ingest_cpu_s / workload.cores,
        "screening": megabytes * rates.screening_cpu_s_per_mb / workload.cores,
        "rendering": megabytes * rates.rendering_cpu_s_per_mb / workload.cores,
        "packing": megabytes * rates.packing_cpu_s_per_mb / workload.cores,
    } | dict(simulated_s)
    return [
        # Cores that are idle until the last one finishes are paid for as well.
        Stage(name, wall_s / 3600, core_hours=wall_s * workload.cores / 3600)
        for name, wall_s in seconds.items()
    ]


def training_speed(rates: Rates, profile: str) -> TrainingSpeed:
    """Return the measured training speed of a profile.

    Raises:
        ParameterError: None was measured.
    """
    speeds = {speed.profile: speed for speed in rates.training}
    if profile not in speeds:
        known = ", ".join(sorted(speeds))
        raise ParameterError(
            f"No training speed was measured for {profile}. Measure it with `kedro run "
            f"--params=model={profile},qlora_train.preflight_only=true` and add it to "
            "planning.rates.training in conf/local/parameters.yml; or estimate data only "
            f"(--gpus 0), or one of {known} (--model)."
        )
    return speeds[profile]


def estimate(workload: Workload, planning: PlanningParams, profile: str) -> list[Stage]:
    """Return time and cost of every stage.

    Args:
        workload: Size and hardware; without a GPU the data stages only.
        planning: Rates and prices.
        profile: Model profile to train.

    Raises:
        ParameterError: No training speed was measured for the profile.
    """
    rates = planning.rates
    stages = [
        Stage(s.name, s.hours, s.core_hours, price=s.core_hours * planning.core_hour_price)
        for s in data_stages(workload, rates)
    ]
    if not workload.gpus:
        return stages
    speed = training_speed(rates, profile).tokens_per_second
    tokens = workload.megabytes * rates.training_tokens_per_mb * workload.epochs
    gpu_hours = tokens / speed / 3600
    stages.append(
        Stage(
            "training",
            gpu_hours / workload.gpus,
            gpu_hours=gpu_hours,
            price=gpu_hours * planning.gpu_hour_price,
        )
    )
    return stages
