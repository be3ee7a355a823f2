"""How fast a repository is read, against `git log -p -M` and PyDriller, in one go.

    python benchmarks/git_ingest.py REPOSITORY [--pydriller-commits 300]

To reach: history without redaction at most 1.25 times git, everything at most 2.5 times,
a second run under 2 s. Memory is the sum over our processes of their proportional share.
"""

import argparse
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from the_block_llm import schemas
from the_block_llm.datasets.parts import save_parts
from the_block_llm.pipelines.git_ingest import nodes
from the_block_llm.pipelines.git_ingest.params import GitIngestParams


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("repository")
    arguments.add_argument("--pydriller-commits", type=int, default=300)
    asked = arguments.parse_args()
    repository = str(Path(asked.repository).resolve())
    git_s, n_commits, whole = git_log(repository)
    rows = [("git log -p -M" + ("" if whole else " (died: missing object)"), git_s, None)]
    with tempfile.TemporaryDirectory() as folder:
        rows.append(("ours, history, no redaction", *ours(repository, Path(folder, "a"), False)))
        rows.append(("ours, everything", *ours(repository, Path(folder, "b"), True)))
        rows.append(("ours, everything, again", *ours(repository, Path(folder, "b"), True)))
    driller_s = pydriller(repository, asked.pydriller_commits, n_commits)
    if driller_s is not None:
        rows.append((f"PyDriller (from {asked.pydriller_commits} commits)", driller_s, None))
    print(f"{n_commits:,} commits, {os.cpu_count()} cores")
    print(f"{'':32} {'s':>8} {'commits/s':>10} {'x git':>7} {'peak MB':>8}")
    for name, seconds, peak in rows:
        memory = "" if peak is None else f"{peak:8.0f}"
        print(
            f"{name:32} {seconds:8.2f} {n_commits / seconds:10,.0f} {seconds / git_s:7.2f} {memory}"
        )


def git_log(repository: str) -> tuple[float, int, bool]:
    started = time.perf_counter()
    done = subprocess.run(
        ["git", "-C", repository, "log", "-p", "-M", "HEAD"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    seconds = time.perf_counter() - started
    count = ["git", "-C", repository, "rev-list", "--count", "HEAD"]
    return seconds, int(subprocess.check_output(count)), done.returncode == 0


def ours(repository: str, folder: Path, everything: bool) -> tuple[float, float]:
    params = GitIngestParams(
        cache_folder=str(folder / "cache"),
        clone_folder=str(folder / "clones"),
        pseudonym_key_file=str(folder / "key"),
        redact=everything,
        pseudonymise=everything,
    )
    with Peak() as peak:
        started = time.perf_counter()
        facts = nodes.find_repositories(repository, [], params, 0.85)
        commits, changes, history = nodes.read_commits(facts, params)
        save_parts(folder / "commits", schemas.COMMITS, commits)
        save_parts(folder / "file_changes", schemas.FILE_CHANGES, changes)
        if everything:
            files, snapshots = nodes.read_files(facts, params)
            save_parts(folder / "snapshot_files", schemas.SNAPSHOT_FILES, files)
            nodes.report_ingest(facts, history, snapshots)
        seconds = time.perf_counter() - started
    return seconds, peak.mib


def pydriller(repository: str, n_measured: int, n_commits: int) -> float | None:
    try:
        from pydriller import Repository  # noqa: PLC0415
    except ImportError:
        print("PyDriller is not installed; `pip install pydriller` adds it to the comparison.")
        return None
    started, n_read = time.perf_counter(), 0
    for commit in Repository(repository).traverse_commits():
        for file in commit.modified_files:
            _ = file.diff
        n_read += 1
        if n_read == n_measured:
            break
    return (time.perf_counter() - started) / max(1, n_read) * n_commits


class Peak:
    """Watches the memory of this process and its descendants, by proportional set size."""

    def __enter__(self) -> "Peak":
        self.mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.mib = max(self.mib, sum(map(_pss_kib, _family(os.getpid()))) / 1024)


def _family(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [int(c) for t in tasks for c in (t / "children").read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in _family(child))]


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
