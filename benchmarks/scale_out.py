"""Benchmark ingest of many repositories: one and two workers, local engine and Ray, memory.

    python benchmarks/scale_out.py [--large PATH …] [--small 200] [--rounds 1] [--only CASE …]

Reads ``--small`` generated repositories and three large ones (those given, the rest generated)
with all features enabled, each case in a separate process with an empty cache. Targets: two workers
at least 1.7 times as fast as one, Ray at most 15 % slower than two workers, and a driver whose
memory does not grow with the number of repositories (a quarter of the small ones, half, all). All
cases must write the same bytes. Of several rounds the table shows the one with the lowest ``idle
s``; ratios are the median of the rounds.

Wall time means little on a machine that runs other programs, so processor seconds are measured too.
``idle s`` estimates the wall time on an otherwise idle machine: the processor seconds of the
busiest worker plus those that the driver needs outside its jobs. ``all s`` are those of every
process of the case: driver, workers, git, and Ray's daemons.
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
from the_block_llm.execution.local_jobs import stop_idle_workers
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.execution.ray_jobs import run_on_ray
from the_block_llm.pipelines.git_ingest import nodes
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.git_ingest.sharding import fan_out

run_guarded = fan_out._run_guarded
DIVISORS = {"quarter": 4, "half": 2}
CASES = (
    "local 1", "local 2", "ray 2",
    *(f"{engine} 2, {part}" for engine in ("local", "ray") for part in DIVISORS),
)  # fmt: skip
WORDS = ("claim", "ledger", "settle", "order", "limit", "window", "price", "grid", "vote", "epoch")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--large", nargs="*", default=[])
    arguments.add_argument("--small", type=int, default=200)
    arguments.add_argument(
        "--commits", type=int, default=5000, help="of a large generated repository"
    )
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    arguments.add_argument("--case", help=argparse.SUPPRESS)
    arguments.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.case:
        print(json.dumps(run_case(options.case, options.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(
            folder, options.small, [Path(path).resolve() for path in options.large], options.commits
        )
        rounds: dict[str, list[dict[str, Any]]] = {}
        for case in [*options.only] * options.rounds:
            command = [sys.executable, __file__, "--case", case, "--folder", str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            print(case, json.dumps(result), file=sys.stderr)
            rounds.setdefault(case, []).append(result)
    # The minimum: other programs can only add to it.
    best = {
        case: min(results, key=lambda result: result["idle_seconds"])
        for case, results in rounds.items()
    }
    print(f"{os.cpu_count()} cores, {options.small} small and 3 large repositories")
    print(
        f"{'':18} {'repositories':>12} {'commits':>8} {'wall s':>8} {'idle s':>7} {'all s':>7} "
        f"{'work s':>7} {'driver s':>8} {'start s':>8} {'driver MB':>10} {'worker MB':>10}"
    )
    for case, result in best.items():
        print(
            f"{case:18} {result['repositories']:12,} {result['commits']:8,} "
            f"{result['seconds']:8.1f} {result['idle_seconds']:7.1f} {result['all_seconds']:7.1f} "
            f"{result['work_seconds']:7.1f} {result['driver_seconds']:8.1f} "
            f"{result['start_seconds']:8.1f} {result['driver_mb']:10.0f} "
            f"{result['worker_mb']:10.0f}"
        )
    for name, first, second, target in (
        ("two workers against one", "local 1", "local 2", "at least 1.7"),
        ("Ray against two workers", "ray 2", "local 2", "at most 1.15"),
    ):
        if first in best and second in best:
            wall, idle, every = (
                statistics.median(
                    a[key] / b[key] for a, b in zip(rounds[first], rounds[second], strict=True)
                )
                for key in ("seconds", "idle_seconds", "all_seconds")
            )
            print(
                f"{name}: {idle:.2f} on an idle machine, {every:.2f} by all processor seconds, "
                f"{wall:.2f} by wall time ({target})"
            )
    for engine in ("local", "ray"):
        for who in ("driver", "worker"):
            memory = sorted(
                (result["repositories"], result[f"{who}_mb"])
                for case, result in best.items()
                if case.startswith(f"{engine} 2")
            )
            if len(memory) > 1:
                sizes = ", ".join(f"{mb:.0f} MB with {n}" for n, mb in memory)
                print(f"{who} of {engine} 2: {sizes} repositories (must not grow)")
    digests = {
        result["digest"]
        for case, results in rounds.items()
        if "," not in case
        for result in results
    }
    print(f"same bytes: {'yes' if len(digests) == 1 else 'NO'}")


def run_case(case: str, folder: Path) -> dict[str, Any]:
    engine, workers = case.partition(",")[0].split()
    execution = ExecutionParams(engine=engine, cpus=int(workers))
    start_s = 0.0
    if engine == "ray":
        # Measured separately: the start does not matter in a run of hours.
        import ray  # noqa: PLC0415, an extra

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        start = time.perf_counter()
        ray.init(
            address="local", num_cpus=int(workers), object_store_memory=200 << 20,
            include_dashboard=False, log_to_driver=False, configure_logging=False,
        )  # fmt: skip
        list(run_on_ray([(os.getpid, ())], execution))
        start_s = time.perf_counter() - start
    listed = (folder / "list.txt").read_text().split("\n")
    if part := case.partition(", ")[2]:
        small = [line for line in listed if "/small/" in line]
        small = small[: len(small) // DIVISORS[part]]
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
        # Times every job; workers import this module by its name.
        fan_out._run_guarded = TimedJob(log)
        start, own_start, all_start = time.perf_counter(), own_cpu_s(), all_cpu_s()
        elapsed = {}
        facts = nodes.find_repositories(".", [line for line in listed if line], params, 0.85,
                                        execution)  # fmt: skip
        elapsed["find"] = time.perf_counter() - start
        commits, changes, history = nodes.read_commits(facts, params, execution)
        elapsed["history"] = time.perf_counter() - start
        tables = [
            save_table(out / "commits", schemas.COMMITS, commits),
            save_table(out / "file_changes", schemas.FILE_CHANGES, changes),
        ]
        elapsed["saved"] = time.perf_counter() - start
        files, snapshots = nodes.read_files(facts, params, history, execution)
        tables.append(save_table(out / "snapshot_files", schemas.SNAPSHOT_FILES, files))
        elapsed["files"] = time.perf_counter() - start
        nodes.report_ingest(facts, history, snapshots)
        seconds = time.perf_counter() - start
        stop_idle_workers()
        all_s = all_cpu_s() - all_start
        driver_s, children_s = (
            now - then for now, then in zip(own_cpu_s(), own_start, strict=True)
        )
        jobs_s: dict[int, float] = {}
        worker_kb = 0
        for line in log.read_text().splitlines():
            pid, own, of_git, peak_kb = line.split()
            worker_kb = max(worker_kb, 0 if int(pid) == os.getpid() else int(peak_kb))
            jobs_s[int(pid)] = jobs_s.get(int(pid), 0.0) + float(own) + float(of_git)
            children_s -= float(of_git)
            if int(pid) == os.getpid():
                driver_s -= float(own)
            elif engine == "local":
                children_s -= float(own)
        if engine == "local":
            # The remainder was used to start the workers; it is divided among them.
            for pid in jobs_s.keys() - {os.getpid()}:
                jobs_s[pid] += max(0.0, children_s) / len(jobs_s.keys() - {os.getpid()})
        return {
            "idle_seconds": round(driver_s + max(jobs_s.values()), 2),
            "all_seconds": round(all_s, 2),
            "work_seconds": round(sum(jobs_s.values()), 2),
            "driver_seconds": round(driver_s, 2),
            "repositories": len(facts["repositories"]),
            "commits": sum(one["commits"] for one in history),
            "seconds": round(seconds, 2),
            "elapsed": {key: round(value, 2) for key, value in elapsed.items()},
            "change_bytes": sum(one["kept_bytes"] for one in history),
            "file_bytes": sum(one["kept_bytes"] for one in snapshots),
            "start_seconds": round(start_s, 2),
            "worker_mb": worker_kb / 1024,
            "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "digest": digest(tables),
        }


class TimedJob:
    """Wraps the function that runs a job, and logs the resources that the job used."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        start = own_cpu_s()
        try:
            return run_guarded(function, arguments)
        finally:
            own, of_git = (now - then for now, then in zip(own_cpu_s(), start, strict=True))
            with self.log.open("a") as file:
                peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                file.write(f"{os.getpid()} {own} {of_git} {peak_kb}\n")


def own_cpu_s() -> tuple[float, float]:
    """Return processor seconds of this process, and of its finished children."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


def all_cpu_s() -> float:
    """Return processor seconds of this process and all its descendants, finished ones included."""
    here = psutil.Process()
    total = 0.0
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def digest(tables: list[ParquetTable]) -> str:
    sha256 = hashlib.sha256()
    for table in tables:
        for part in table.parts:
            sha256.update(part.read_bytes())
    return sha256.hexdigest()


def generate(folder: Path, n_small: int, large: list[Path], n_large_commits: int) -> None:
    """Write the repositories, the list of them, and a key for the pseudonyms of authors."""
    rng = random.Random(0)
    paths = [str(path) for path in large]
    paths += [
        str(generate_repository(folder / "large" / f"large{number}", n_large_commits, number))
        for number in range(len(large), 3)
    ]
    for number in range(n_small):
        n_commits = max(3, int(rng.lognormvariate(3.4, 0.8)))
        path = generate_repository(folder / "small" / f"service{number:03}", n_commits, number)
        paths.append(str(path))
    (folder / "list.txt").write_text("\n".join(paths))
    (folder / "key").write_text(os.urandom(32).hex())


def generate_repository(path: Path, n_commits: int, seed: int) -> Path:
    """Write a repository whose commits change some lines of one to four files."""
    rng = random.Random(seed)
    path.mkdir(parents=True)
    run = ["git", "-C", str(path)]
    subprocess.run([*run, "init", "-q", "--bare", "."], check=True)
    files: dict[str, list[str]] = {}
    stream: list[bytes] = []
    for number in range(n_commits):
        when = 1_700_000_000 + number * 3600
        person = f"Dev {rng.randrange(9)} <dev{rng.randrange(9)}@example.org> {when} +0000"
        subject = f"Let {rng.choice(WORDS)} {rng.choice(WORDS)} keep its {rng.choice(WORDS)}\n"
        stream.append(f"commit refs/heads/main\nauthor {person}\ncommitter {person}".encode())
        stream.append(b"data %d\n%s" % (len(subject), subject.encode()))
        for _ in range(rng.randint(1, 4)):
            name = f"src/{rng.choice(WORDS)}/part{rng.randrange(3 + n_commits // 10)}.py"
            lines = files.setdefault(name, [])
            for _ in range(rng.randint(2, 30)):
                line = f"{rng.choice(WORDS)}_{rng.randrange(10**6)} = {rng.choice(WORDS)}(1)"
                lines.insert(rng.randint(0, len(lines)), line)
            del lines[400:]
            text = "\n".join(lines).encode() + b"\n"
            stream.append(b"M 100644 inline %s\ndata %d\n%s" % (name.encode(), len(text), text))
    subprocess.run([*run, "fast-import", "--quiet"], input=b"\n".join(stream) + b"\n", check=True)
    subprocess.run([*run, "symbolic-ref", "HEAD", "refs/heads/main"], check=True)
    return path


if __name__ == "__main__":
    # Imported under its own name, so that workers can unpickle its objects.
    from scale_out import main as run

    run()
