"""Memory, time and text of a whole run of sequence_build over a generated corpus of any size.

    python benchmarks/sequence_build_whole.py FOLDER --megabytes 10000

Tables of many made-up repositories are written (benchmarks/generated_history.py), then every node
of the pipeline runs over them as in `kedro run`, one after the other in one process. Meanwhile the
proportional share of memory (PSS) of that process and of all that it starts is summed up, so that
nothing is counted twice and nothing forgotten. To reach: 10 GB of rendered text in under 1.5 GB.

With ``--engine ray`` its workers do the work, ``--cpus`` of them, and what is shown is the memory
of the largest of them, and of the driver: they must not grow with the number of repositories.
``--spread 0`` makes all repositories alike, since a large one takes more than a small one;
``--group-commits`` makes smaller tasks.

With ``--times`` what was rendered stands in the table of documents that many times over: packing
and the report are then seen at a size for which tokenising would take hours.

FOLDER keeps the tables and what each stage made; a run that was cut off goes on with the stage
that it was in. Megabytes are of rendered documents; how many they really are is printed.
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

from git_ingest import _command_of, _family, _pss_kib

_WANTED_GB = 1.5
_SECONDS_BETWEEN_LOOKS = 0.5
_COMMITS_A_MEGABYTE = 33  # of rendered text, as these repositories are made
_COMMITS_A_REPOSITORY = 800
_SPLITS = ("train", "validation", "held_out")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--megabytes", type=float, default=50)
    arguments.add_argument("--profile", default="smollm2-135m", help="a profile, or a folder")
    arguments.add_argument("--until", default="", help="the last stage to run")
    arguments.add_argument("--engine", default="local", choices=("local", "ray"))
    arguments.add_argument("--cpus", type=int, default=2, help="workers of Ray")
    arguments.add_argument("--group-commits", type=int, default=4000, help="of a task on Ray")
    arguments.add_argument("--spread", type=float, default=1, help="sigma of log-normal sizes")
    arguments.add_argument("--times", type=int, default=1, help="packed, of what is rendered")
    arguments.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.stages:
        _run_stages(asked)
        return
    peaks = _watched(asked.folder, asked.engine)
    done = _done(asked.folder)
    is_ray = asked.engine == "ray"
    title = f"{'worker GB':>10} {'driver GB':>10}" if is_ray else f"{'peak GB':>8}"
    print(f"{'stage':12} {'s':>7} {'MB of text':>11} {'MB/s':>6} {'M tokens':>9} {title}")
    for name, one in done.items():
        megabytes, tokens = one.get("megabytes"), one.get("tokens")
        text = f"{megabytes:11,.0f} {megabytes / one['seconds']:6.1f}" if megabytes else " " * 18
        said = f"{tokens / 1e6:9,.1f}" if tokens else " " * 9
        largest, driver = peaks.get(name, (0.0, 0.0))
        memory = f"{largest:10.2f} {driver:10.2f}" if is_ray else f"{driver:8.2f}"
        print(f"{name:12} {one['seconds']:7.0f} {text} {said} {memory}")
    largest, peak = (max(gb, default=0.0) for gb in zip(*peaks.values(), strict=True))
    if is_ray:
        print(f"largest worker {largest:.2f} GB, driver {peak:.2f} GB")
        return
    print(f"peak {peak:.2f} GB (wanted under {_WANTED_GB}): "
          f"{'met' if peak < _WANTED_GB else 'NOT met'}")  # fmt: skip


def _watched(folder: Path, engine: str) -> dict[str, tuple[float, float]]:
    """Run the stages in a process of their own; GB of memory at the peak of each.

    Of Ray's largest worker, 0 without it, and of all other processes together; on Ray those of
    Ray itself are left out, so that it is the driver.
    """
    before = set(_done(folder))
    file = folder / "peaks.json"
    peaks: dict[str, tuple[float, float]] = json.loads(file.read_text()) if file.exists() else {}
    command = [sys.executable, *sys.argv, "--stages"]
    # On its own: what making the tables leaves in memory is no part of the pipeline.
    subprocess.run([*command, "--until", "tables"], check=True)
    process = subprocess.Popen(command)
    while process.poll() is None:
        stage = _now(folder)
        if stage and stage not in before:
            every = _family(process.pid)
            workers = [one for one in every if _command_of(one).startswith(b"ray::")]
            kib = (
                max(map(_pss_kib, workers), default=0),
                sum(map(_pss_kib, every[:1] if engine == "ray" else every)),
            )
            largest, driver = (round(one * 1024 / 1e9, 3) for one in kib)
            before_it = peaks.get(stage, (0.0, 0.0))
            if largest > before_it[0] or driver > before_it[1]:
                peaks[stage] = max(largest, before_it[0]), max(driver, before_it[1])
                file.write_text(json.dumps(peaks))
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise SystemExit(f"the pipeline ended with code {process.returncode}")
    return peaks


def _run_stages(asked: argparse.Namespace) -> None:
    # As a run of Kedro does: the settings first, which choose Arrow's allocator, pandas at the
    # first dataset in memory.
    import the_block_llm.settings  # noqa: I001, F401, PLC0415
    import pandas  # noqa: F401, PLC0415

    from the_block_llm.memory import trim_heap  # noqa: PLC0415

    folder = asked.folder
    for name, work in _stages(asked).items():
        if name not in _done(folder):
            (folder / "now").write_text(name)
            trim_heap()  # as before each node of a run
            begin = time.monotonic()
            found = work()
            seconds = time.monotonic() - begin
            done = {**_done(folder), name: {"seconds": round(seconds, 1), **found}}
            (folder / "done.json").write_text(json.dumps(done, indent=1))
            print(name, json.dumps(done[name]), flush=True)
        if name == asked.until:
            return


def _stages(asked: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    from chosen_profile import chosen_profile  # noqa: PLC0415
    from the_block_llm import schemas  # noqa: PLC0415
    from the_block_llm.datasets.parquet_table import ParquetTable, save_table  # noqa: PLC0415
    from the_block_llm.execution.params import ExecutionParams  # noqa: PLC0415
    from the_block_llm.models.profiles import ModelProfiles  # noqa: PLC0415
    from the_block_llm.pipelines.sequence_build import nodes  # noqa: PLC0415
    from the_block_llm.pipelines.sequence_build.packing import repository_batches  # noqa: PLC0415
    from the_block_llm.pipelines.sequence_build.params import SequenceBuildParams  # noqa: PLC0415

    folder: Path = asked.folder
    params = SequenceBuildParams(
        token_cache_folder=str(folder / "tokenised"), work_folder=str(folder / "parts")
    )
    profile = chosen_profile(asked.profile)
    execution = ExecutionParams(
        engine=asked.engine, cpus=asked.cpus if asked.engine == "ray" else 0
    )
    repository_batches._COMMITS_PER_BATCH = asked.group_commits
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

        n_commits = round(asked.megabytes * _COMMITS_A_MEGABYTE)
        facts = write_tables(
            folder, n_commits, max(3, n_commits // _COMMITS_A_REPOSITORY), spread=asked.spread
        )
        (folder / "repository.json").write_text(json.dumps(facts))
        return {"commits": n_commits, "repositories": len(facts["repositories"])}

    def screen() -> dict[str, Any]:
        found = nodes.screen_documents(repository(), *tables(), *choices, execution)
        (folder / "screening.json").write_text(json.dumps(found))
        return {"leaks": len(found["leaks"])}

    def render() -> dict[str, Any]:
        made = nodes.render_documents(repository(), *tables(), screening(), *choices, execution)
        save_table(folder / "documents", schemas.DOCUMENTS, made)
        repeated = [*documents().parts] * asked.times
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
        made = node.get(split, nodes.pack_held_out)(documents(), *choices, execution)
        rows = save_table(folder / split, schemas.ROWS, made)
        n_tokens = sum(sum(b["n_tokens"].to_pylist()) for b in rows.batches(["n_tokens"]))
        return {"rows": rows.num_rows, "tokens": n_tokens}

    def report() -> dict[str, Any]:
        rows = [ParquetTable(folder / split) for split in _SPLITS]
        facts = nodes.describe_rows(*choices)
        made = nodes.report_sequences(
            repository(), tables()[0], documents(), screening(), facts, *rows, *choices
        )
        (folder / "report.json").write_text(json.dumps(made, indent=1))
        nodes.plot_sequences(made, *rows)
        return {"train_fill_percent": made["train_fill_percent"]}

    return {
        "tables": make_tables, "screening": screen, "rendering": render,
        **{split: lambda split=split: pack(split) for split in _SPLITS}, "report": report,
    }  # fmt: skip


def _done(folder: Path) -> dict[str, Any]:
    file = folder / "done.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _now(folder: Path) -> str:
    file = folder / "now"
    return file.read_text() if file.exists() else ""


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()
