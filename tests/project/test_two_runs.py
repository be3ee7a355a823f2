"""Two commands at once in one project: they wait, are refused, or read what is complete."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kedro.framework.project import pipelines
from kedro.framework.startup import bootstrap_project
from tests.builders.git_repository import GitRepository
from tests.builders.processes import Script, running
from tests.builders.project import copy_project, run_project

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import InUseError, TableReplacedError
from the_block_llm.locks.process_lock import read_owner

PIPELINES = (
    "__default__", "git_ingest", "sequence_build", "qlora_train", "behavioral_eval", "export",
)  # fmt: skip
HOLDER = """
    import sys
    from pathlib import Path
    from the_block_llm.project.run_lock import RunLock
    sys.argv = ["kedro", "run", "--pipeline=qlora_train"]
    lock = RunLock(Path("data"))
    lock.acquire(0)
    print("held", flush=True)
    sys.stdin.readline()
    lock.release()
"""
# Kedro as a command, several times in one process.
COMMANDS = """
    import os, sys
    from kedro.framework.cli.cli import main
    for line in sys.stdin.read().splitlines():
        print(f"$ {line}", flush=True)
        sys.argv = line.split()
        try:
            main()
        except SystemExit as end:
            print(f"exit code {end.code or 0}", flush=True)
"""
# A session whose run is interrupted as a cell of a notebook is, then what `%reload_kedro` does.
INTERRUPTED = """
    import sys
    from pathlib import Path
    from kedro.framework.project import configure_project
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project
    from kedro.ipython import _remove_cached_modules
    from kedro.runner import SequentialRunner

    class Interrupted(SequentialRunner):
        def _run(self, *values, **options):
            raise KeyboardInterrupt

    bootstrap_project(Path.cwd())
    kept = []
    for runner in (Interrupted(), Interrupted(), SequentialRunner()):
        params = {"repository": sys.argv[1], "execution": {"lock_timeout_s": 0}}
        try:
            with KedroSession.create(Path.cwd(), env="base", runtime_params=params) as session:
                session.run(node_names=["find_repositories"], runner=runner)
                print("run completed", flush=True)
        except KeyboardInterrupt as error:
            kept.append((session, error))  # as IPython keeps the last traceback
        if len(kept) == 2:
            _remove_cached_modules("the_block_llm")
            configure_project("the_block_llm")
"""


KEDRO = "import sys; from kedro.framework.cli.cli import main; sys.argv[0] = 'kedro'; main()"


def kedro(project: Path, *arguments: str, **env: str) -> Script:
    return Script(KEDRO, *arguments, cwd=project, env=env)


@pytest.fixture(scope="module")
def project(finished_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A sibling of the repository that its configuration names.
    copy = finished_project.with_name(f"{finished_project.name}-two-runs")
    return Path(shutil.copytree(finished_project, copy))


@pytest.fixture
def holder(project: Path) -> Iterator[Script]:
    script = Script(HOLDER, cwd=project)
    script.wait_for("held")
    with running(script):
        yield script


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def repository(folder: Path, n_commits: int) -> Path:
    made = GitRepository(folder)
    for number in range(n_commits):
        made.commit(f"Add part {number}", {f"part{number}.py": f"def part_{number}(): pass\n"})
    return folder


@pytest.mark.slow(seconds=60)
def test_every_pipeline_is_refused_while_another_process_changes_the_project(
    project: Path, holder: Script
) -> None:
    bootstrap_project(project)
    assert set(PIPELINES) == set(pipelines)
    before = times(project / "data")
    for pipeline in PIPELINES:
        with pytest.raises(
            InUseError, match=rf"kedro run --pipeline=qlora_train` \(process {holder.pid}"
        ):
            run_project(project, pipeline, execution={"lock_timeout_s": 0})
    assert times(project / "data") == before


@pytest.mark.slow(seconds=60)
def test_commands_that_write_are_refused_and_commands_that_read_work(
    project: Path, holder: Script
) -> None:
    local = project / "conf/test/parameters_execution.yml"
    local.write_text("execution: {lock_timeout_s: 0}\n")
    versions = project / "data/06_models/tiny"
    trained = next(versions.glob("2*"))
    shutil.copytree(trained, versions / "2020-01-01T00.00.00.000000Z")  # the first of the best
    prunable = shutil.copytree(trained, versions / "2021-01-01T00.00.00.000000Z")
    writing = (
        "kedro run",
        "kedro run --pipelines=git_ingest,sequence_build --runner=ThreadRunner",
        "kedro run --tags=report",
        "kedro adapters prune --yes",
        "kedro training-job data/06_models/.job --processes=2",
    )
    reading = (
        "kedro ask --new-tokens 2 Where?",
        "kedro rows --row 3",
        "kedro audit",
        "kedro adapters list",
        "kedro estimate --repositories 3 --gigabytes 0.1 --model llama-3.1-8b",
        "kedro registry list",
    )
    output = Script(COMMANDS, cwd=project, env={"KEDRO_ENV": "test"}).finish(
        "\n".join([*writing, *reading])
    )
    local.unlink()
    outputs = dict(part.split("\n", 1) for part in output.split("$ ") if part.startswith("kedro"))
    assert "Traceback" not in output
    for command in writing:
        assert f"(process {holder.pid} on" in outputs[command], outputs[command]
        assert "exit code 1" in outputs[command]
    for command in reading:
        assert "exit code 0" in outputs[command], outputs[command]
        assert "in use" not in outputs[command]
    assert prunable.is_dir()


@pytest.mark.slow(seconds=30)
def test_a_run_waits_for_another_and_tells_its_own_figures(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    runs = {
        n: kedro(
            project, "run", "--pipeline=git_ingest", "--env=base",
            f"--params=repository={repository(tmp_path / f'of-{n}', n)}",
        )
        for n in (3, 7, 5)
    }  # fmt: skip
    with running(*runs.values()):
        for n, run in runs.items():
            assert f"ingested {n} commits" in " ".join(run.finish().split())
    assert sum("Waiting: " in run.output for run in runs.values()) >= 1
    tables = project / "data/02_intermediate"
    stored = json.loads((project / "data/01_raw/repository.json").read_text())["name"]
    for name in ("commits", "file_changes", "snapshot_files"):
        assert {row["repo"] for row in ParquetTable(tables / name).rows(["repo"])} == {stored}


@pytest.mark.slow(seconds=30)
def test_after_a_killed_run_the_next_one_starts_at_once(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    source = repository(tmp_path / "source", 4)
    run_project(
        project, "git_ingest", env="base", repository=str(repository(tmp_path / "other", 1))
    )
    # A git that stops at the first diff, so that the run is killed in the middle.
    real, shim, reached = shutil.which("git"), tmp_path / "bin/git", tmp_path / "reached"
    shim.parent.mkdir()
    stop = f"echo $$ > {reached}.new; mv {reached}.new {reached}; exec sleep 120"
    shim.write_text(f'#!/bin/sh\ncase "$*" in *diff-tree*) {stop};; esac\nexec {real} "$@"\n')
    shim.chmod(0o755)
    options = ("run", "--pipeline=git_ingest", "--env=base", f"--params=repository={source}")
    killed = kedro(project, *options, PATH=f"{shim.parent}:{os.environ['PATH']}")
    try:
        while not reached.exists():
            assert killed.is_running, killed.finish()
            time.sleep(0.05)
        os.kill(killed.pid, 9)
        os.waitpid(killed.pid, 0)
        assert read_owner(project / "data/.run.lock") is not None, "it could not remove its record"
        assert list((project / "data/02_intermediate/.ingest_cache/.sandboxes").glob("sandbox-*"))
        # Its git lives on. The tables are those of no run, and are not used.
        with pytest.raises(TableReplacedError, match="was stopped"):
            run_project(project, "sequence_build", env="base")
        output = kedro(project, *options).finish()
    finally:
        os.kill(int(reached.read_text()), 9)
    assert "Waiting" not in output
    assert read_owner(project / "data/.run.lock") is None
    sandboxes = project / "data/02_intermediate/.ingest_cache/.sandboxes"
    assert list(sandboxes.iterdir()) == [], "those of the killed run are removed too"


@pytest.mark.slow(seconds=20)
def test_a_run_interrupted_in_a_notebook_does_not_block_the_next(
    tmp_path: Path, small_repository: Path
) -> None:
    project = copy_project(tmp_path / "project")
    output = Script(INTERRUPTED, small_repository, cwd=project).finish()
    assert output.count("run completed") == 1, output[-3000:]


@pytest.mark.slow(seconds=20)
def test_parallel_runner_holds_the_lock_in_its_main_process_alone(
    tmp_path: Path, small_repository: Path
) -> None:
    project = copy_project(tmp_path / "project")
    run = kedro(
        project, "run", "--pipeline=git_ingest", "--env=base", "--runner=ParallelRunner",
        f"--params=repository={small_repository}",
    )  # fmt: skip
    with running(run):
        run.finish()
    assert read_owner(project / "data/.run.lock") is None
