"""Many repositories: one worker against two, Ray against the local engine, the driver's memory.

    python benchmarks/scale_out.py [--large PATH …] [--small 200] [--rounds 1] [--only CASE …]

Reads ``--small`` generated repositories and three large ones (those given, the rest generated)
with everything on, each case in a process of its own with an empty cache. To reach: two workers
at least 1.7 times as fast as one, Ray at most 15 % slower than two workers, and a driver whose
memory does not grow with the number of repositories (a quarter of the small ones, half, all). All
cases must write the same bytes. Of several rounds the table shows the one with the least ``rest
s``; ratios are the median of those within a round.

On a machine that other programs use as well, seconds on the clock say little. So processor
seconds are measured too: those of the busiest worker and those that the driver needs beside its
jobs are together what the clock would show on a machine at rest (``rest s``). ``all s`` are those
of every process that the case has: driver, workers, git, and of Ray its daemons as well.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from the_block_llm import schemas
from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.execution.local_jobs import end_idle_workers
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray
from the_block_llm.pipelines.git_ingest import nodes
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.git_ingest.sharding import fan_out

guarded = fan_out._run_guarded
FEWER = {"quarter": 4, "half": 2}
CASES = (
    "local 1", "local 2", "ray 2",
    *(f"{engine} 2, {part}" for engine in ("local", "ray") for part in FEWER),
)  # fmt: skip
WORDS = ("claim", "ledger", "settle", "order", "limit", "window", "price", "grid", "vote", "epoch")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--large", nargs="*", default=[])
    arguments.add_argument("--small", type=int, default=200)
    arguments.add_argument("--commits", type=int, default=5000, help="of a large generated one")
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    arguments.add_argument("--case", help=argparse.SUPPRESS)
    arguments.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.case:
        print(json.dumps(run_case(asked.case, asked.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, asked.small, [Path(path).resolve() for path in asked.large], asked.commits)
        rounds: dict[str, list[dict[str, Any]]] = {}
        for case in [*asked.only] * asked.rounds:
            command = [sys.executable, __file__, "--case", case, "--folder", str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            one = json.loads(done.stdout.splitlines()[-1])
            print(case, json.dumps(one), file=sys.stderr)
            rounds.setdefault(case, []).append(one)
    # Other programs can only add to it.
    found = {case: min(each, key=lambda one: one["rest_seconds"]) for case, each in rounds.items()}
    print(f"{os.cpu_count()} cores, {asked.small} small and 3 large repositories")
    print(
        f"{'':18} {'repositories':>12} {'commits':>8} {'clock s':>8} {'rest s':>7} {'all s':>7} "
        f"{'work s':>7} {'driver s':>8} {'start s':>8} {'driver MB':>10} {'worker MB':>10}"
    )
    for case, one in found.items():
        print(
            f"{case:18} {one['repositories']:12,} {one['commits']:8,} {one['seconds']:8.1f} "
            f"{one['rest_seconds']:7.1f} {one['all_seconds']:7.1f} "
            f"{one['work_seconds']:7.1f} {one['driver_seconds']:8.1f} "
            f"{one['start_seconds']:8.1f} {one['driver_mb']:10.0f} {one['worker_mb']:10.0f}"
        )
    for name, first, second, goal in (
        ("two workers against one", "local 1", "local 2", "at least 1.7"),
        ("Ray against two workers", "ray 2", "local 2", "at most 1.15"),
    ):
        if first in found and second in found:
            clock, rest, every = (
                statistics.median(
                    a[key] / b[key] for a, b in zip(rounds[first], rounds[second], strict=True)
                )
                for key in ("seconds", "rest_seconds", "all_seconds")
            )
            print(
                f"{name}: {rest:.2f} at rest, {every:.2f} by all processor seconds, {clock:.2f} "
                f"by the clock ({goal})"
            )
    for engine in ("local", "ray"):
        for who in ("driver", "worker"):
            memory = sorted(
                (one["repositories"], one[f"{who}_mb"])
                for case, one in found.items()
                if case.startswith(f"{engine} 2")
            )
            if len(memory) > 1:
                told = ", ".join(f"{mb:.0f} MB with {n}" for n, mb in memory)
                print(f"{who} of {engine} 2: {told} repositories (must not grow)")
    whole = {one["digest"] for case, each in rounds.items() if "," not in case for one in each}
    print(f"same bytes: {'yes' if len(whole) == 1 else 'NO'}")


def run_case(case: str, folder: Path) -> dict[str, Any]:
    engine, workers = case.partition(",")[0].split()
    execution = ExecutionParams(engine=engine, cpus=int(workers))
    start_s = 0.0
    if engine == "ray":
        # Started once, and told apart: a run of hours does not notice it.
        import ray  # noqa: PLC0415, an extra

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        begin = time.perf_counter()
        ray.init(
            address="local", num_cpus=int(workers), object_store_memory=200 << 20,
            include_dashboard=False, log_to_driver=False, configure_logging=False,
        )  # fmt: skip
        list(run_on_ray([(os.getpid, ())], execution))
        start_s = time.perf_counter() - begin
    listed = (folder / "list.txt").read_text().split("\n")
    if part := case.partition(", ")[2]:
        small = [line for line in listed if "/small/" in line]
        small = small[: len(small) // FEWER[part]]
        listed = [line for line in listed if "/small/" not in line] + small
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        (out / "key").write_bytes((folder / "key").read_bytes())
        params = GitIngestParams(
            cache_folder=str(out / "cache"), clone_folder=str(out / "clones"),
            pseudonym_key_file=str(out / "key"), n_processes=int(workers),
        )  # fmt: skip
        log = out / "cpu.log"
        log.touch()
        # The same job, timed; workers find this module by its name.
        fan_out._run_guarded = Timed(log)
        begin, own_begin, all_begin = time.perf_counter(), own_cpu_s(), all_cpu_s()
        marks = {}
        facts = nodes.find_repositories(".", [line for line in listed if line], params, 0.85,
                                        execution)  # fmt: skip
        marks["find"] = time.perf_counter() - begin
        commits, changes, history = nodes.read_commits(facts, params, execution)
        marks["history"] = time.perf_counter() - begin
        tables = [
            save_table(out / "commits", schemas.COMMITS, commits),
            save_table(out / "file_changes", schemas.FILE_CHANGES, changes),
        ]
        marks["saved"] = time.perf_counter() - begin
        files, snapshots = nodes.read_files(facts, params, history, execution)
        tables.append(save_table(out / "snapshot_files", schemas.SNAPSHOT_FILES, files))
        marks["files"] = time.perf_counter() - begin
        nodes.report_ingest(facts, history, snapshots)
        seconds = time.perf_counter() - begin
        end_idle_workers()
        all_s = all_cpu_s() - all_begin
        driver_s, waited_s = (now - then for now, then in zip(own_cpu_s(), own_begin, strict=True))
        jobs_s: dict[int, float] = {}
        worker_kb = 0
        for line in log.read_text().splitlines():
            pid, own, of_git, most_kb = line.split()
            worker_kb = max(worker_kb, 0 if int(pid) == os.getpid() else int(most_kb))
            jobs_s[int(pid)] = jobs_s.get(int(pid), 0.0) + float(own) + float(of_git)
            waited_s -= float(of_git)
            if int(pid) == os.getpid():
                driver_s -= float(own)
            elif engine == "local":
                waited_s -= float(own)
        if engine == "local":
            # What is left was used to start the workers, each of which has its share.
            for pid in jobs_s.keys() - {os.getpid()}:
                jobs_s[pid] += max(0.0, waited_s) / len(jobs_s.keys() - {os.getpid()})
        return {
            "rest_seconds": round(driver_s + max(jobs_s.values()), 2),
            "all_seconds": round(all_s, 2),
            "work_seconds": round(sum(jobs_s.values()), 2),
            "driver_seconds": round(driver_s, 2),
            "repositories": len(facts["repositories"]),
            "commits": sum(one["commits"] for one in history),
            "seconds": round(seconds, 2),
            "marks": {key: round(value, 2) for key, value in marks.items()},
            "change_bytes": sum(one["kept_bytes"] for one in history),
            "file_bytes": sum(one["kept_bytes"] for one in snapshots),
            "start_seconds": round(start_s, 2),
            "worker_mb": worker_kb / 1024,
            "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "digest": digest(tables),
        }


class Timed:
    """Stands for the function that guards a job, and writes down what the job used."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        begin = own_cpu_s()
        try:
            return guarded(function, arguments)
        finally:
            own, of_git = (now - then for now, then in zip(own_cpu_s(), begin, strict=True))
            with self.log.open("a") as file:
                most_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                file.write(f"{os.getpid()} {own} {of_git} {most_kb}\n")


def own_cpu_s() -> tuple[float, float]:
    """Processor seconds of this process, and of the processes that it has waited for."""
    own, waited = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime, waited.ru_utime + waited.ru_stime


def all_cpu_s() -> float:
    """Processor seconds of this process and all below it, those that have ended included."""
    here = psutil.Process()
    total = 0.0
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            total += used.user + used.system + used.children_user + used.children_system
    return total


def digest(tables: list[ParquetTable]) -> str:
    found = hashlib.sha256()
    for table in tables:
        for part in table.parts:
            found.update(part.read_bytes())
    return found.hexdigest()


def generate(folder: Path, n_small: int, large: list[Path], n_commits_of_large: int) -> None:
    """Write the repositories, the list of them, and a key for the names of authors."""
    draw = random.Random(0)
    paths = [str(path) for path in large]
    paths += [
        str(make(folder / "large" / f"large{number}", n_commits_of_large, number))
        for number in range(len(large), 3)
    ]
    for number in range(n_small):
        n_commits = max(3, int(draw.lognormvariate(3.4, 0.8)))
        paths.append(str(make(folder / "small" / f"service{number:03}", n_commits, number)))
    (folder / "list.txt").write_text("\n".join(paths))
    (folder / "key").write_text(os.urandom(32).hex())


def make(path: Path, n_commits: int, seed: int) -> Path:
    """A repository whose commits change some lines of one to four files."""
    draw = random.Random(seed)
    path.mkdir(parents=True)
    run = ["git", "-C", str(path)]
    subprocess.run([*run, "init", "-q", "--bare", "."], check=True)
    files: dict[str, list[str]] = {}
    stream: list[bytes] = []
    for number in range(n_commits):
        when = 1_700_000_000 + number * 3600
        person = f"Dev {draw.randrange(9)} <dev{draw.randrange(9)}@example.org> {when} +0000"
        subject = f"Let {draw.choice(WORDS)} {draw.choice(WORDS)} keep its {draw.choice(WORDS)}\n"
        stream.append(f"commit refs/heads/main\nauthor {person}\ncommitter {person}".encode())
        stream.append(b"data %d\n%s" % (len(subject), subject.encode()))
        for _ in range(draw.randint(1, 4)):
            name = f"src/{draw.choice(WORDS)}/part{draw.randrange(3 + n_commits // 10)}.py"
            lines = files.setdefault(name, [])
            for _ in range(draw.randint(2, 30)):
                line = f"{draw.choice(WORDS)}_{draw.randrange(10**6)} = {draw.choice(WORDS)}(1)"
                lines.insert(draw.randint(0, len(lines)), line)
            del lines[400:]
            text = "\n".join(lines).encode() + b"\n"
            stream.append(b"M 100644 inline %s\ndata %d\n%s" % (name.encode(), len(text), text))
    subprocess.run([*run, "fast-import", "--quiet"], input=b"\n".join(stream) + b"\n", check=True)
    subprocess.run([*run, "symbolic-ref", "HEAD", "refs/heads/main"], check=True)
    return path


if __name__ == "__main__":
    # As a module of its own name, so that what is sent to workers is found there.
    from scale_out import main as run

    run()
