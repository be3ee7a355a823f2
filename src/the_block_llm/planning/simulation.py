"""Simulate the scheduling of repositories of very different sizes on a number of cores."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from the_block_llm.planning.estimate import Stage, Workload, data_stages
from the_block_llm.planning.params import Rates

_WINDOW_TOKENS: Final = 16 * 1024 * 1024  # as in sequence_build
_SEED: Final = 0


@dataclass(frozen=True)
class SimulationResult:
    """Result for one number of cores."""

    cores: int
    stages: Sequence[Stage]
    ingest_efficiency: float
    """Fraction of the cores' time spent in ingest jobs: 1 if none waits for a large repository."""

    @property
    def bottleneck(self) -> str:
        """Name of the stage that takes longest."""
        return max(self.stages, key=lambda stage: stage.hours).name


def draw_sizes(
    n_repositories: int, median_mb: float, sigma: float, total_mb: float | None
) -> npt.NDArray[np.float64]:
    """Draw the kept megabytes of each repository: log-normal, as software sizes are.

    Args:
        n_repositories: Number of repositories.
        median_mb: Median size, if ``total_mb`` is None.
        sigma: Standard deviation of the logarithm.
        total_mb: Total to scale the sizes to.
    """
    sizes = median_mb * np.random.default_rng(_SEED).lognormal(0.0, sigma, n_repositories)
    return sizes if total_mb is None else sizes * (total_mb / sizes.sum())


def simulate(
    sizes_mb: npt.NDArray[np.float64], cores: int, rates: Rates, shard_mb: float, max_shards: int
) -> SimulationResult:
    """Schedule the repositories as the pipelines do, the large ones first.

    Ingest divides a large repository into shards. Screening and rendering take it as one task; rows
    are packed by windows of the corpus, which do not depend on repositories.

    Args:
        sizes_mb: Kept text of each repository, shape ``(repositories,)``.
        cores: Number of cores.
        rates: Measured rates.
        shard_mb: Size of a shard of a large repository.
        max_shards: Maximum number of shards of a repository.
    """
    shard_seconds: list[float] = []
    for size in sizes_mb:
        n_shards = min(max_shards, max(1, int(size / shard_mb)))
        shard_s = size * rates.ingest_cpu_s_per_mb / n_shards
        # Each shard opens the repository and lists its commits.
        shard_seconds += [shard_s + rates.ingest_cpu_s_per_repository] * n_shards
    total_mb = float(sizes_mb.sum())
    n_windows = max(1, round(total_mb * rates.training_tokens_per_mb / _WINDOW_TOKENS))
    jobs = {
        "ingest": shard_seconds,
        "screening": [size * rates.screening_cpu_s_per_mb for size in sizes_mb],
        "rendering": [size * rates.rendering_cpu_s_per_mb for size in sizes_mb],
        "packing": [total_mb * rates.packing_cpu_s_per_mb / n_windows] * n_windows,
    }
    wall_s = {name: _makespan_s(seconds, cores) for name, seconds in jobs.items()}
    workload = Workload(len(sizes_mb), total_mb, cores, gpus=0, epochs=0)
    return SimulationResult(
        cores,
        data_stages(workload, rates, wall_s),
        sum(shard_seconds) / (wall_s["ingest"] * cores),
    )


def _makespan_s(jobs: Sequence[float], cores: int) -> float:
    """Return when the last core finishes, if each takes the longest remaining job."""
    busy_until = [0.0] * cores
    for seconds in sorted(jobs, reverse=True):
        heapq.heapreplace(busy_until, busy_until[0] + seconds)
    return max(busy_until)
