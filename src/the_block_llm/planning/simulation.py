"""Thousands of repositories of very different sizes on a number of cores: what waits for what."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from the_block_llm.planning.estimate import Stage, Workload, data_stages
from the_block_llm.planning.params import Rates

_WINDOW_TOKENS: Final = 16 * 1024 * 1024  # as sequence_build packs them


@dataclass(frozen=True)
class Simulated:
    """What became of one number of cores."""

    cores: int
    stages: Sequence[Stage]
    ingest_efficiency: float
    """Share of the cores' time in which they read: 1 where none waits for a large repository."""

    @property
    def bottleneck(self) -> str:
        """The stage that takes longest."""
        return max(self.stages, key=lambda stage: stage.hours).name


def draw_sizes(
    n_repositories: int, median_mb: float, sigma: float, total_mb: float | None, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Kept megabytes of each repository: log-normal, as sizes of software are.

    Args:
        n_repositories: How many.
        median_mb: Of the middle one, where ``total_mb`` is not given.
        sigma: Standard deviation of the logarithm.
        total_mb: Scales them to so much together.
        seed: Of the drawing.
    """
    sizes = median_mb * np.random.default_rng(seed).lognormal(0.0, sigma, n_repositories)
    return sizes if total_mb is None else sizes * (total_mb / sizes.sum())


def simulate(
    sizes_mb: npt.NDArray[np.float64], cores: int, rates: Rates, share_mb: float, most_shares: int
) -> Simulated:
    """Hand the repositories out as the pipelines do, the large ones first.

    Ingest divides a large repository into shares. To screen and to render, it is one task; rows
    are packed by windows of the corpus, whosever documents lie in them.

    Args:
        sizes_mb: Of each repository.
        cores: That work.
        rates: Measured.
        share_mb: Size of a share of a large repository.
        most_shares: Into which one is divided.
    """
    shares: list[float] = []
    for size in sizes_mb:
        n_shares = min(most_shares, max(1, int(size / share_mb)))
        a_share = size * rates.ingest_cpu_s_per_mb / n_shares
        # Each share opens the repository and lists its commits by itself.
        shares += [a_share + rates.ingest_cpu_s_per_repository] * n_shares
    total_mb = float(sizes_mb.sum())
    n_windows = max(1, round(total_mb * rates.training_tokens_per_mb / _WINDOW_TOKENS))
    jobs = {
        "ingest": shares,
        "screening": [size * rates.screening_cpu_s_per_mb for size in sizes_mb],
        "rendering": [size * rates.rendering_cpu_s_per_mb for size in sizes_mb],
        "packing": [total_mb * rates.packing_cpu_s_per_mb / n_windows] * n_windows,
    }
    wall_s = {name: _last_end(seconds, cores) for name, seconds in jobs.items()}
    work = Workload(len(sizes_mb), total_mb, cores, gpus=0, epochs=0)
    return Simulated(
        cores,
        data_stages(work, rates, wall_s),
        sum(shares) / (wall_s["ingest"] * cores),
    )


def _last_end(jobs: Sequence[float], cores: int) -> float:
    """When the last core is done, where each takes the longest job that is left."""
    busy_until = [0.0] * cores
    for seconds in sorted(jobs, reverse=True):
        heapq.heapreplace(busy_until, busy_until[0] + seconds)
    return max(busy_until)
