"""How fast a repository is read, against `git log -p -M` and PyDriller, in one go.

    python benchmarks/git_ingest.py REPOSITORY [--rounds 3] [--pydriller-commits 200]

To reach: history without redaction at most 1.25 times git, everything at most 2.5 times, a
second run under 2 s, less than 400 MB, PyDriller at least 20 times slower than the whole.

Each round runs git, then each of ours in a fresh process; the medians are shown, of the clock
and of the processors, git's own processes included. The clock
starts when Kedro and the pipeline are imported and stops when the tables are in place. Memory
is the sum over our processes, git's included, of their proportional share, taken in a run of
its own, since looking takes time. PyDriller (`pip install pydriller`) is used as its
documentation shows, `Repository(path).traverse_commits()`, and asked for what stands in our
tables; for some commits, at even distances, of a clone that borrows the objects, because it
writes into the configuration of what it opens.
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

_SECONDS_BETWEEN_LOOKS = 0.05


class Took(NamedTuple):
    """Seconds that something took."""

    wall: float
    processors: float


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("repository")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--pydriller-commits", type=int, default=200)
    arguments.add_argument("--one", nargs=2, metavar=("FOLDER", "MODE"), help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    repository = str(Path(asked.repository).resolve())
    if asked.one:
        print(json.dumps(ours(repository, Path(asked.one[0]), everything=asked.one[1] == "all")))
        return
    commits = _git(repository, "rev-list", "HEAD").split()
    seconds: dict[str, list[Took]] = {}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        lost = _lost_files(repository, Path(folder, "lost"))
        for number in range(asked.rounds + 1):
            is_watched = number == asked.rounds
            if not is_watched:
                name = "git log -p -M"
                seconds.setdefault(name, []).append(git_log(repository, commits, lost))
            for name, where, mode in (
                ("history, no redaction", f"{number}a", "history"),
                ("everything", f"{number}b", "all"),
                ("everything, nothing new", f"{number}b", "all"),
            ):
                took, peak = _in_fresh_process(repository, Path(folder, where), mode, is_watched)
                if is_watched:
                    peaks[name] = peak
                else:
                    seconds.setdefault(name, []).append(took)
        readable = [sha for sha in commits if sha not in lost]
        if lost:
            name = "git log, without these commits"
            seconds[name] = [git_log(repository, commits, lost, leave_out=True)]
        driller = pydriller(repository, Path(folder), readable, asked.pydriller_commits)
    if driller is not None:
        seconds[f"PyDriller ({asked.pydriller_commits} commits)"] = [driller]
    version = subprocess.check_output(["git", "--version"], text=True).strip()
    print(f"{len(commits):,} commits, {os.cpu_count()} cores, {version}")
    if lost:
        n_files = sum(map(len, lost.values()))
        print(
            f"git is not asked for {n_files} files in {len(lost)} commits, which are missing; "
            "PyDriller cannot read these commits at all"
        )
    print(
        f"{'':32} {'s':>8} {'lowest':>8} {'commits/s':>10} {'x git':>7} {'processors':>10} "
        f"{'x git':>7} {'peak MB':>8}"
    )
    git = _medians(seconds["git log -p -M"])
    for name, all_of_it in seconds.items():
        middle = _medians(all_of_it)
        memory = f"{peaks[name]:8.0f}" if name in peaks else ""
        print(
            f"{name:32} {middle.wall:8.2f} {min(all_of_it).wall:8.2f} "
            f"{len(commits) / middle.wall:10,.0f} {middle.wall / git.wall:7.2f} "
            f"{middle.processors:10.2f} {middle.processors / git.processors:7.2f} {memory}"
        )


def _medians(all_of_it: Sequence[Took]) -> Took:
    return Took(*map(statistics.median, zip(*all_of_it, strict=True)))


class _Watch:
    """Started when it is made; says what this process and its children took since."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), self._processors()

    @staticmethod
    def _processors() -> float:
        whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(sum(resource.getrusage(who)[:2]) for who in whose)

    def took(self) -> Took:
        wall, processors = self._start
        return Took(time.perf_counter() - wall, self._processors() - processors)


def git_log(
    repository: str,
    commits: Sequence[str],
    lost: Mapping[str, Sequence[str]],
    *,
    leave_out: bool = False,
) -> Took:
    """Time of ``git log -p -M``; where files are ``lost``, of all that it can show.

    With ``leave_out`` without the commits that lack files.
    """
    runs = [(["HEAD"], "")]
    if lost:
        whole = "".join(f"{sha}\n" for sha in commits if sha not in lost)
        runs = [(["--no-walk=unsorted", "--stdin"], whole)]
        for sha, paths in lost.items() if not leave_out else ():
            runs.append(
                (["-1", sha, "--", ".", *(f":(top,exclude,literal){p}" for p in paths)], "")
            )
    watch = _Watch()
    for which, said in runs:
        subprocess.run(
            ["git", "-C", repository, "log", "-p", "-M", *which],
            input=said,
            text=True,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return watch.took()


def ours(repository: str, folder: Path, *, everything: bool, since: datetime | None = None) -> Took:
    """Time that the pipeline takes, without its imports, for the commits from ``since`` on."""
    # As a run of Kedro does: the settings first, pandas at the first dataset in memory.
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
    watch = _Watch()
    facts = nodes.find_repositories(repository, [], params, 0.85)
    commits, changes, history = nodes.read_commits(facts, params)
    save_table(folder / "commits", schemas.COMMITS, commits)
    save_table(folder / "file_changes", schemas.FILE_CHANGES, changes)
    if everything:
        trim_heap()  # as before each node of a run
        files, snapshots = nodes.read_files(facts, params)
        save_table(folder / "snapshot_files", schemas.SNAPSHOT_FILES, files)
        nodes.report_ingest(facts, history, snapshots)
    return watch.took()


def pydriller(
    repository: str, folder: Path, commits: Sequence[str], n_measured: int
) -> Took | None:
    """Time that PyDriller would take for all commits, from some; None without it."""
    try:
        from pydriller import Repository  # noqa: PLC0415
    except ImportError:
        print("PyDriller is not installed; `pip install pydriller` adds it to the comparison.")
        return None
    borrower = str(folder / "borrower")
    subprocess.run(
        ["git", "clone", "--quiet", "--bare", "--shared", repository, borrower], check=True
    )
    chosen = commits[:: max(1, len(commits) // n_measured)]
    # It lists the whole history whatever it is asked for: that is counted once. Twice here, since
    # the first time is that of its imports and of the packs as well.
    for _ in range(2):
        watch = _Watch()
        for _ in Repository(borrower, only_commits=["none"]).traverse_commits():
            pass
    listing = watch.took()
    watch = _Watch()
    for commit in Repository(borrower, only_commits=chosen).traverse_commits():
        author = commit.author
        _ = (commit.hash, commit.parents, author.name, author.email, commit.author_date)
        _ = (commit.committer_date, commit.author_timezone, commit.msg, commit.merge)
        for file in commit.modified_files:
            _ = (file.old_path, file.new_path, file.change_type)
            _ = (file.added_lines, file.deleted_lines, file.diff)
    return Took(
        *(
            listed + (all_of_it - listed) / len(chosen) * len(commits)
            for listed, all_of_it in zip(listing, watch.took(), strict=True)
        )
    )


def _in_fresh_process(
    repository: str, folder: Path, mode: str, is_watched: bool
) -> tuple[Took, float]:
    """Return what it took, and where it is watched the peak of memory in MiB."""
    process = subprocess.Popen(
        [sys.executable, __file__, repository, "--one", str(folder), mode],
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = 0.0
    while is_watched and process.poll() is None:
        peak = max(peak, sum(map(_pss_kib, _family(process.pid))) / 1024)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the pipeline ended with code {process.returncode}")
    return Took(*json.loads(said.splitlines()[-1])), peak


def _lost_files(repository: str, folder: Path) -> dict[str, list[str]]:
    """For each commit at which git would die the paths that it must not be asked for."""
    done = subprocess.run(
        ["git", "-C", repository, "log", "-p", "-M", "HEAD"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    lost: dict[str, list[str]] = {}
    if done.returncode:
        from the_block_llm.datasets.parquet_table import ParquetTable  # noqa: PLC0415

        ours(repository, folder, everything=False)
        columns = ["sha", "path", "old_path", "drop_reason"]
        for row in ParquetTable(folder / "file_changes").rows(columns):
            if row["drop_reason"] == "missing_object":
                paths = filter(None, (row["path"], row["old_path"]))
                lost.setdefault(row["sha"], []).extend(paths)
    return lost


def _git(repository: str, *arguments: str) -> str:
    return subprocess.check_output(["git", "-C", repository, *arguments], text=True)


def _family(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [int(c) for t in tasks for c in (t / "children").read_text().split()]
    except OSError:
        return [pid]
    # A child that has not become git yet still shares its parent's memory.
    own = _command_of(pid)
    born = [child for child in children if _command_of(child) != own]
    return [pid, *(one for child in born for one in _family(child))]


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
