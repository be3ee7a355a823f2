"""Peak memory of reading a history, against that of reading its last tenth.

    python benchmarks/git_ingest_memory.py REPOSITORY [--rounds 3]

To reach: less than 400 MB, and ten times the history in the same memory. It is the last tenth,
through `git_ingest.since`, because files grow with the years: what git holds of large ones would
otherwise be taken for what it holds of many commits. Both are read with everything on, in fresh
processes, in turns; memory is the sum over our processes, git's included, of their proportional
share, looked at twenty times a second. Shown are medians of the rounds' peaks, and what Python and
git each held at theirs.
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

from git_ingest import _family, _git, _pss_kib, ours

_WANTED_MB = 400
_SECONDS_BETWEEN_LOOKS = 0.05


class Peak(NamedTuple):
    """Megabytes (2**20 bytes), each at its own highest moment."""

    all_of_it: float
    python: float
    git: float


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("repository")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--history-only", action="store_true", help="no redaction, no snapshot")
    arguments.add_argument("--one", nargs=2, metavar=("FOLDER", "SINCE"), help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    repository = str(Path(asked.repository).resolve())
    if asked.one:
        folder, since = asked.one
        took = ours(
            repository,
            Path(folder),
            everything=not asked.history_only,
            since=datetime.fromisoformat(since) if since else None,
        )
        print(json.dumps(took))
        return
    times = sorted(map(int, _git(repository, "log", "--format=%ct", "HEAD").split()))
    n_last = len(times) // 10
    since = datetime.fromtimestamp(times[-n_last], UTC).isoformat()
    peaks: dict[str, list[Peak]] = {}
    for _ in range(asked.rounds):
        for name, begin in ((f"the last {n_last:,}", since), (f"all {len(times):,}", "")):
            peaks.setdefault(name, []).append(_watched(begin))
    print(f"{'commits':20} {'peak MB':>8} {'Python':>8} {'git':>8}")
    middle = {name: Peak(*map(statistics.median, zip(*all_of_it, strict=True)))
              for name, all_of_it in peaks.items()}  # fmt: skip
    for name, peak in middle.items():
        print(f"{name:20} {peak.all_of_it:8.0f} {peak.python:8.0f} {peak.git:8.0f}")
    last, whole = (peak.all_of_it for peak in middle.values())
    print(f"ten times the history: {whole / last:.2f} x the memory (wanted 1.00); "
          f"{whole:.0f} MB (wanted under {_WANTED_MB})")  # fmt: skip


def _watched(since: str) -> Peak:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, *sys.argv, "--one", folder, since], stdout=subprocess.DEVNULL
        )
        all_of_it = python = git = 0.0
        while process.poll() is None:
            own, *others = (_pss_kib(pid) / 1024 for pid in _family(process.pid))
            all_of_it = max(all_of_it, own + sum(others))
            python, git = max(python, own), max(git, sum(others))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if process.returncode:
            raise SystemExit(f"the pipeline ended with code {process.returncode}")
        return Peak(all_of_it, python, git)


if __name__ == "__main__":
    main()
