"""Benchmark a complete run of sequence_build, on a generated corpus of any size: memory and time.

    python benchmarks/sequence_build_whole.py FOLDER --megabytes 10000

Writes tables of many generated repositories (benchmarks/generated_history.py), then runs every node
of the pipeline on them as in `kedro run`, one after the other in one process. During the run it
samples the sum of the proportional set size (PSS) of that process and all its children, which
counts shared pages once. Target: 10 GB of rendered text in under 1.5 GB.

With ``--engine ray`` the work is done by ``--cpus`` Ray workers, and the table shows the memory of
the largest worker and of the driver: they must not grow with the number of repositories.
``--spread 0`` makes all repositories the same size, since a large one takes more memory than a
small one; ``--group-commits`` makes smaller tasks.

With ``--times`` the rendered documents are repeated in the table ``documents``, to measure packing
and the report at a size for which tokenization would take hours.

FOLDER holds the tables and the output of each stage; an interrupted run resumes with the stage that
it was in. Megabytes are those of rendered documents; the actual number is printed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from git_ingest import _command_of, _process_tree, _pss_kib

_TARGET_GB = 1.5
_SAMPLE_INTERVAL_S = 0.5
_COMMITS_PER_MEGABYTE = 33  # of rendered text, for the generated repositories
_COMMITS_PER_REPOSITORY = 800
_SPLITS = ("train", "validation", "held_out")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--megabytes", type=float, default=50)
    arguments.add_argument("--profile", default="smollm2-135m", help="a profile, or a folder")
    arguments.add_argument("--until", default="", help="the last stage to run")
    arguments.add_argument("--engine", default="local", choices=("local", "ray"))
    arguments.add_argument("--cpus", type=int, default=2, help="workers of Ray")
    arguments.add_argument("--group-commits", type=int, default=4000, help="commits of a Ray task")
    arguments.add_argument("--spread", type=float, default=1, help="sigma of log-normal sizes")
    arguments.add_argument("--times", type=int, default=1, help="repeat rendered documents")
    arguments.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.stages:
        _run_stages(options)
        return
    peaks = _run_and_sample(options.folder, options.engine)
    done = _done(options.folder)
    is_ray = options.engine == "ray"
    title = f"{'worker GB':>10} {'driver GB':>10}" if is_ray else f"{'peak GB':>8}"
    print(f"{'stage':12} {'s':>7} {'MB of text':>11} {'MB/s':>6} {'M tokens':>9} {title}")
    for name, result in done.items():
        megabytes, tokens = result.get("megabytes"), result.get("tokens")
        rate = f"{megabytes:11,.0f} {megabytes / result['seconds']:6.1f}" if megabytes else " " * 18
        token_count = f"{tokens / 1e6:9,.1f}" if tokens else " " * 9
        largest, driver = peaks.get(name, (0.0, 0.0))
        memory = f"{largest:10.2f} {driver:10.2f}" if is_ray else f"{driver:8.2f}"
        print(f"{name:12} {result['seconds']:7.0f} {rate} {token_count} {memory}")
    largest, peak = (max(gb, default=0.0) for gb in zip(*peaks.values(), strict=True))
    if is_ray:
        print(f"largest worker {largest:.2f} GB, driver {peak:.2f} GB")
        return
    print(f"peak {peak:.2f} GB (target: under {_TARGET_GB}): "
          f"{'met' if peak < _TARGET_GB else 'NOT met'}")  # fmt: skip


def _run_and_sample(folder: Path, engine: str) -> dict[str, tuple[float, float]]:
    """Run the stages in a separate process; return the peak memory of each, in GB.

    First that of Ray's largest worker, 0 without Ray; second that of all other processes together.
    With Ray the second is the driver alone, without Ray's own processes.
    """
    done_before = set(_done(folder))
    file = folder / "peaks.json"
    peaks: dict[str, tuple[float, float]] = json.loads(file.read_text()) if file.exists() else {}
    command = [sys.executable, *sys.argv, "--stages"]
    # In a separate process: memory used to generate the tables is not part of the pipeline.
    subprocess.run([*command, "--until", "tables"], check=True)
    process = subprocess.Popen(command)
    while process.poll() is None:
        stage = _current_stage(folder)
        if stage and stage not in done_before:
            processes = _process_tree(process.pid)
            workers = [one for one in processes if _command_of(one).startswith(b"ray::")]
            kib = (
                max(map(_pss_kib, workers), default=0),
                sum(map(_pss_kib, processes[:1] if engine == "ray" else processes)),
            )
            largest, driver = (round(one * 1024 / 1e9, 3) for one in kib)
            peak = peaks.get(stage, (0.0, 0.0))
            if largest > peak[0] or driver > peak[1]:
                peaks[stage] = max(largest, peak[0]), max(driver, peak[1])
                file.write_text(json.dumps(peaks))
        time.sleep(_SAMPLE_INTERVAL_S)
    if process.returncode:
        raise SystemExit(f"the pipeline ended with code {process.returncode}")
    return peaks


def _run_stages(options: argparse.Namespace) -> None:
    # As in a run of Kedro: first the settings, which choose Arrow's allocator, then pandas, which
    # the first in-memory dataset imports.
    import the_block_llm.settings  # noqa: I001, F401, PLC0415
    import pandas  # noqa: F401, PLC0415

    from the_block_llm.memory import trim_heap  # noqa: PLC0415

    folder = options.folder
    for name, work in _stages(options).items():
        if name not in _done(folder):
            (folder / "now").write_text(name)
            trim_heap()  # as before each node of a run
            begin = time.monotonic()
            result = work()
            seconds = time.monotonic() - begin
            done = {**_done(folder), name: {"seconds": round(seconds, 1), **result}}
            (folder / "done.json").write_text(json.dumps(done, indent=1))
            print(name, json.dumps(done[name]), flush=True)
        if name == options.until:
            return


def _stages(options: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    from chosen_profile import chosen_profile  # noqa: PLC0415
    from the_block_llm import schemas  # noqa: PLC0415
    from the_block_llm.datasets.parquet_table import ParquetTable, save_table  # noqa: PLC0415
    from the_block_llm.execution.params import ExecutionParams  # noqa: PLC0415
    from the_block_llm.models.profiles import ModelProfiles  # noqa: PLC0415
    from the_block_llm.pipelines.sequence_build import nodes  # noqa: PLC0415
    from the_block_llm.pipelines.sequence_build.documents import repository_batches  # noqa: PLC0415
    from the_block_llm.pipelines.sequence_build.params import SequenceBuildParams  # noqa: PLC0415

    folder: Path = options.folder
    params = SequenceBuildParams(
        token_cache_folder=str(folder / "tokenised"), work_folder=str(folder / "parts")
    )
    profile = chosen_profile(options.profile)
    execution = ExecutionParams(
        engine=options.engine, cpus=options.cpus if options.engine == "ray" else 0
    )
    repository_batches._COMMITS_PER_BATCH = options.group_commits
    choices = (ModelProfiles({profile.name: profile}), profile.name, params)

    def repository() -> dict[str, Any]:
        return json.loads((folder / "repository.json").read_text())

    def tables() -> list[ParquetTable]:
        return [ParquetTable(folder / n) for n in ("commits", "file_changes", "snapshot_files")]

    def screening() -> dict[str, Any]:
        return json.loads((folder / "screening.json").read_text())

    def documents() -> ParquetTable:
        return ParquetTable(folder / "documents")

    def make_tables() -> dict[str, Any]:
        from generated_history import write_tables  # noqa: PLC0415

        n_commits = round(options.megabytes * _COMMITS_PER_MEGABYTE)
        facts = write_tables(
            folder, n_commits, max(3, n_commits // _COMMITS_PER_REPOSITORY), spread=options.spread
        )
        (folder / "repository.json").write_text(json.dumps(facts))
        return {"commits": n_commits, "repositories": len(facts["repositories"])}

    def screen() -> dict[str, Any]:
        screened = nodes.screen_documents(repository(), *tables(), *choices, execution)
        (folder / "screening.json").write_text(json.dumps(screened))
        return {"leaks": len(screened["leaks"])}

    def render() -> dict[str, Any]:
        rendered = nodes.render_documents(repository(), *tables(), screening(), *choices, execution)
        save_table(folder / "documents", schemas.DOCUMENTS, rendered)
        repeated = [*documents().parts] * options.times
        save_table(folder / "documents", schemas.DOCUMENTS, repeated)
        n_bytes = n_tokens = 0
        for batch in documents().batches(["segments", "n_tokens"]):
            texts = batch["segments"].flatten().field("text")
            n_bytes += sum(map(len, texts.to_pylist()))
            n_tokens += sum(batch["n_tokens"].to_pylist())
        return {
            "documents": documents().num_rows, "megabytes": n_bytes / 1e6, "tokens": n_tokens,
        }  # fmt: skip

    def pack(split: str) -> dict[str, Any]:
        node = {"train": nodes.pack_train, "validation": nodes.pack_validation}
        packed = node.get(split, nodes.pack_held_out)(documents(), *choices, execution)
        rows = save_table(folder / split, schemas.ROWS, packed)
        n_tokens = sum(sum(b["n_tokens"].to_pylist()) for b in rows.batches(["n_tokens"]))
        return {"rows": rows.num_rows, "tokens": n_tokens}

    def report() -> dict[str, Any]:
        rows = [ParquetTable(folder / split) for split in _SPLITS]
        facts = nodes.describe_rows(*choices)
        sequence_report = nodes.report_sequences(
            repository(), tables()[0], documents(), screening(), facts, *rows, *choices
        )
        (folder / "report.json").write_text(json.dumps(sequence_report, indent=1))
        nodes.plot_sequences(sequence_report, *rows)
        return {"train_fill_percent": sequence_report["train_fill_percent"]}

    return {
        "tables": make_tables, "screening": screen, "rendering": render,
        **{split: lambda split=split: pack(split) for split in _SPLITS}, "report": report,
    }  # fmt: skip


def _done(folder: Path) -> dict[str, Any]:
    file = folder / "done.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _current_stage(folder: Path) -> str:
    file = folder / "now"
    return file.read_text() if file.exists() else ""


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()
