"""Speed of git_ingest compared with `git log -p -M` and PyDriller.

    python benchmarks/git_ingest.py REPOSITORY [--rounds 3] [--pydriller-commits 200]

Goals: history without redaction at most 1.25 times git, everything at most 2.5 times, a
second run under 2 s, less than 400 MB, PyDriller at least 20 times slower than everything.

Each round runs git, then each of our cases in a new process. The output shows medians of
wall-clock and CPU time, including git's processes. The clock
starts after Kedro and the pipeline are imported and stops when the tables are written. Memory
is the sum of the proportional set sizes (PSS) of our processes and git's, measured in a separate
run, since sampling takes time. PyDriller (`pip install pydriller`) is used as its
documentation shows, `Repository(path).traverse_commits()`, and asked for everything that our
tables hold; for evenly spaced commits of a clone that shares the objects, because it
writes to the configuration of the repository that it opens.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

_SAMPLING_INTERVAL_S = 0.05


class Duration(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pydriller-commits", type=int, default=200)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    repository = str(Path(arguments.repository).resolve())
    if arguments.one:
        print(
            json.dumps(
                time_pipeline(
                    repository, Path(arguments.one[0]), everything=arguments.one[1] == "all"
                )
            )
        )
        return
    commits = _git(repository, "rev-list", "HEAD").split()
    seconds: dict[str, list[Duration]] = {}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        missing = _missing_files(repository, Path(folder, "missing"))
        for number in range(arguments.rounds + 1):
            sample_memory = number == arguments.rounds
            if not sample_memory:
                name = "git log -p -M"
                seconds.setdefault(name, []).append(git_log(repository, commits, missing))
            for name, where, mode in (
                ("history, no redaction", f"{number}a", "history"),
                ("everything", f"{number}b", "all"),
                ("everything, nothing new", f"{number}b", "all"),
            ):
                duration, peak = _in_fresh_process(
                    repository, Path(folder, where), mode, sample_memory
                )
                if sample_memory:
                    peaks[name] = peak
                else:
                    seconds.setdefault(name, []).append(duration)
        readable = [sha for sha in commits if sha not in missing]
        if missing:
            name = "git log, without these commits"
            seconds[name] = [git_log(repository, commits, missing, skip_damaged=True)]
        driller = pydriller(repository, Path(folder), readable, arguments.pydriller_commits)
    if driller is not None:
        seconds[f"PyDriller ({arguments.pydriller_commits} commits)"] = [driller]
    version = subprocess.check_output(["git", "--version"], text=True).strip()
    print(f"{len(commits):,} commits, {os.cpu_count()} cores, {version}")
    if missing:
        n_files = sum(map(len, missing.values()))
        print(
            f"git is run without {n_files} missing files in {len(missing)} commits; "
            "PyDriller cannot read these commits at all"
        )
    print(
        f"{'':32} {'s':>8} {'lowest':>8} {'commits/s':>10} {'x git':>7} {'cpu':>10} "
        f"{'x git':>7} {'peak MB':>8}"
    )
    git = _medians(seconds["git log -p -M"])
    for name, durations in seconds.items():
        median = _medians(durations)
        memory = f"{peaks[name]:8.0f}" if name in peaks else ""
        print(
            f"{name:32} {median.wall:8.2f} {min(durations).wall:8.2f} "
            f"{len(commits) / median.wall:10,.0f} {median.wall / git.wall:7.2f} "
            f"{median.cpu:10.2f} {median.cpu / git.cpu:7.2f} {memory}"
        )


def _medians(durations: Sequence[Duration]) -> Duration:
    return Duration(*map(statistics.median, zip(*durations, strict=True)))


class _Stopwatch:
    """Measures this process and its children from its creation."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), self._cpu_s()

    @staticmethod
    def _cpu_s() -> float:
        targets = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(sum(resource.getrusage(target)[:2]) for target in targets)

    def elapsed(self) -> Duration:
        wall, cpu = self._start
        return Duration(time.perf_counter() - wall, self._cpu_s() - cpu)


def git_log(
    repository: str,
    commits: Sequence[str],
    missing: Mapping[str, Sequence[str]],
    *,
    skip_damaged: bool = False,
) -> Duration:
    """Time ``git log -p -M`` without the files in ``missing``.

    With ``skip_damaged`` also without the commits that lack files.
    """
    runs = [(["HEAD"], "")]
    if missing:
        complete = "".join(f"{sha}\n" for sha in commits if sha not in missing)
        runs = [(["--no-walk=unsorted", "--stdin"], complete)]
        for sha, paths in missing.items() if not skip_damaged else ():
            runs.append(
                (["-1", sha, "--", ".", *(f":(top,exclude,literal){p}" for p in paths)], "")
            )
    stopwatch = _Stopwatch()
    for revisions, stdin in runs:
        subprocess.run(
            ["git", "-C", repository, "log", "-p", "-M", *revisions],
            input=stdin,
            text=True,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return stopwatch.elapsed()


def time_pipeline(
    repository: str, folder: Path, *, everything: bool, since: datetime | None = None
) -> Duration:
    """Time the pipeline, without its imports, for the commits from ``since`` on."""
    # As in a Kedro run: the settings first, pandas at the first in-memory dataset.
    import the_block_llm.settings  # noqa: I001, F401, PLC0415
    import pandas  # noqa: F401, PLC0415

    from the_block_llm import schemas  # noqa: PLC0415
    from the_block_llm.datasets.parquet_table_dataset import ParquetTableDataset  # noqa: F401, PLC0415
    from the_block_llm.datasets.parquet_table import save_table  # noqa: PLC0415
    from the_block_llm.memory import trim_heap  # noqa: PLC0415
    from the_block_llm.pipelines.git_ingest import nodes  # noqa: PLC0415
    from the_block_llm.pipelines.git_ingest.params import GitIngestParams  # noqa: PLC0415

    params = GitIngestParams(
        cache_folder=str(folder / "cache"),
        clone_folder=str(folder / "clones"),
        pseudonym_key_file=str(folder / "key"),
        redact=everything,
        pseudonymise=everything,
        since=since,
    )
    stopwatch = _Stopwatch()
    info = nodes.find_repositories(repository, [], params, 0.85)
    commits, changes, history = nodes.read_commits(info, params)
    save_table(folder / "commits", schemas.COMMITS, commits)
    save_table(folder / "file_changes", schemas.FILE_CHANGES, changes)
    if everything:
        trim_heap()  # as before each node of a run
        files, snapshots = nodes.read_files(info, params)
        save_table(folder / "snapshot_files", schemas.SNAPSHOT_FILES, files)
        nodes.report_ingest(info, history, snapshots)
    return stopwatch.elapsed()


def pydriller(
    repository: str, folder: Path, commits: Sequence[str], n_measured: int
) -> Duration | None:
    """Extrapolate PyDriller's time to all commits; None if it is not installed."""
    try:
        from pydriller import Repository  # noqa: PLC0415
    except ImportError:
        print("PyDriller is not installed; `pip install pydriller` adds it to the comparison.")
        return None
    clone = str(folder / "clone")
    subprocess.run(["git", "clone", "--quiet", "--bare", "--shared", repository, clone], check=True)
    sample = commits[:: max(1, len(commits) // n_measured)]
    # PyDriller always lists the complete history: that is counted once. Run twice, since the first
    # run includes its imports and opening the packs.
    for _ in range(2):
        stopwatch = _Stopwatch()
        for _ in Repository(clone, only_commits=["none"]).traverse_commits():
            pass
    listing = stopwatch.elapsed()
    stopwatch = _Stopwatch()
    for commit in Repository(clone, only_commits=sample).traverse_commits():
        author = commit.author
        _ = (commit.hash, commit.parents, author.name, author.email, commit.author_date)
        _ = (commit.committer_date, commit.author_timezone, commit.msg, commit.merge)
        for file in commit.modified_files:
            _ = (file.old_path, file.new_path, file.change_type)
            _ = (file.added_lines, file.deleted_lines, file.diff)
    return Duration(
        *(
            listed + (total - listed) / len(sample) * len(commits)
            for listed, total in zip(listing, stopwatch.elapsed(), strict=True)
        )
    )


def _in_fresh_process(
    repository: str, folder: Path, mode: str, sample_memory: bool
) -> tuple[Duration, float]:
    """Return the time, and the peak memory in MiB if it is sampled."""
    process = subprocess.Popen(
        [sys.executable, __file__, repository, "--one", str(folder), mode],
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = 0.0
    while sample_memory and process.poll() is None:
        peak = max(peak, sum(map(_pss_kib, _process_tree(process.pid))) / 1024)
        time.sleep(_SAMPLING_INTERVAL_S)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the pipeline exited with code {process.returncode}")
    return Duration(*json.loads(output.splitlines()[-1])), peak


def _missing_files(repository: str, folder: Path) -> dict[str, list[str]]:
    """Return for each commit that git cannot print the paths of its missing files."""
    completed = subprocess.run(
        ["git", "-C", repository, "log", "-p", "-M", "HEAD"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    missing: dict[str, list[str]] = {}
    if completed.returncode:
        from the_block_llm.datasets.parquet_table import ParquetTable  # noqa: PLC0415

        time_pipeline(repository, folder, everything=False)
        columns = ["sha", "path", "old_path", "drop_reason"]
        for row in ParquetTable(folder / "file_changes").rows(columns):
            if row["drop_reason"] == "missing_object":
                paths = filter(None, (row["path"], row["old_path"]))
                missing.setdefault(row["sha"], []).extend(paths)
    return missing


def _git(repository: str, *arguments: str) -> str:
    return subprocess.check_output(["git", "-C", repository, *arguments], text=True)


def _process_tree(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [int(c) for t in tasks for c in (t / "children").read_text().split()]
    except OSError:
        return [pid]
    # A child that has not called exec yet still shares its parent's memory.
    own_command = _command_of(pid)
    started = [child for child in children if _command_of(child) != own_command]
    return [pid, *(descendant for child in started for descendant in _process_tree(child))]


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
