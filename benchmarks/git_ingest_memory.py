"""Peak memory of reading a history, compared with reading its last tenth.

    python benchmarks/git_ingest_memory.py REPOSITORY [--rounds 3]

Goals: less than 400 MB, and ten times the history in the same memory. The last tenth is used,
through `git_ingest.since`, because files grow over the years: memory for large files would
otherwise be attributed to the number of commits. Both are read with everything on, in new
processes, alternately; memory is the sum of the proportional set sizes (PSS) of our processes and
git's, sampled twenty times a second. The output shows medians of the rounds' peaks, in total and
separately for Python and git.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from git_ingest import _git, _process_tree, _pss_kib, time_pipeline

_MAX_MB = 400
_SAMPLING_INTERVAL_S = 0.05


class Peak(NamedTuple):
    """Peaks in MiB, each at its own time."""

    total: float
    python: float
    git: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--history-only", action="store_true", help="no redaction, no snapshot")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "SINCE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    repository = str(Path(arguments.repository).resolve())
    if arguments.one:
        folder, since = arguments.one
        duration = time_pipeline(
            repository,
            Path(folder),
            everything=not arguments.history_only,
            since=datetime.fromisoformat(since) if since else None,
        )
        print(json.dumps(duration))
        return
    times = sorted(map(int, _git(repository, "log", "--format=%ct", "HEAD").split()))
    n_last = len(times) // 10
    since = datetime.fromtimestamp(times[-n_last], UTC).isoformat()
    peaks: dict[str, list[Peak]] = {}
    for _ in range(arguments.rounds):
        for name, start in ((f"the last {n_last:,}", since), (f"all {len(times):,}", "")):
            peaks.setdefault(name, []).append(_measure_peak(start))
    print(f"{'commits':20} {'peak MB':>8} {'Python':>8} {'git':>8}")
    medians = {name: Peak(*map(statistics.median, zip(*rounds, strict=True)))
               for name, rounds in peaks.items()}  # fmt: skip
    for name, peak in medians.items():
        print(f"{name:20} {peak.total:8.0f} {peak.python:8.0f} {peak.git:8.0f}")
    last, full = (peak.total for peak in medians.values())
    print(f"ten times the history: {full / last:.2f} x the memory (goal 1.00); "
          f"{full:.0f} MB (goal under {_MAX_MB})")  # fmt: skip


def _measure_peak(since: str) -> Peak:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, *sys.argv, "--one", folder, since], stdout=subprocess.DEVNULL
        )
        total = python = git = 0.0
        while process.poll() is None:
            own, *others = (_pss_kib(pid) / 1024 for pid in _process_tree(process.pid))
            total = max(total, own + sum(others))
            python, git = max(python, own), max(git, sum(others))
            time.sleep(_SAMPLING_INTERVAL_S)
        if process.returncode:
            raise SystemExit(f"the pipeline exited with code {process.returncode}")
        return Peak(total, python, git)


if __name__ == "__main__":
    main()
