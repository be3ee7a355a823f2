"""Every command is the first one after installation: a right answer, or what to run before it.

The commands are listed from the click groups, so that a new one is covered. By default each runs
once, as the first in a project of its own. COMMAND_ORDERS=N also runs all of them in N random
orders, one after the other in one project.
"""

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from kedro.framework.cli.cli import KedroCLI
from kedro.framework.project import pipelines
from kedro.framework.startup import bootstrap_project
from tests.builders.project import ROOT, copy_project

ORDERS = int(os.environ.get("COMMAND_ORDERS", "0"))
# Each command in a child of a process that has imported what all commands import.
RUN_FORKED = """
import os, sys
from kedro.framework.cli.cli import main
import the_block_llm.cli
for line in sys.stdin.read().splitlines():
    folder, log, *command = line.split("\\t")
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(output, 1), os.dup2(output, 2)
        sys.argv = command
        code = 1
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Case:
    """A command line, and what a project in which nothing has run answers."""

    command: str
    arguments: tuple[str, ...]
    code: int
    answer: str
    """Regular expression, found in the output with its line breaks as spaces."""

    def __str__(self) -> str:
        return " ".join((self.command, *self.arguments))


def case(command: str, *arguments: str, code: int = 0, answer: str = "") -> Case:
    return Case(command, arguments, code, answer)


NOT_INGESTED = r"Error: There is no .*(git_ingest|kedro run)"
NO_ADAPTER = r"Error: There is no trained adapter.*kedro run"
CASES = (
    case("adapters list", answer="There is no adapter yet. Train one with `kedro run"),
    case("adapters list", "--all", answer="There is no adapter yet"),
    case("adapters compare", "a", "b", code=1, answer="Error: There is no adapter 'a'"),
    case("adapters prune", answer="nothing to delete"),
    case("ask", code=1, answer="Error: "),
    case("ask", "Why?", code=1, answer=NO_ADAPTER),
    case("ask", "--base", "Why?", code=1, answer=NOT_INGESTED),
    case("ask", "--adapter", "1", "Why?", code=1, answer="There is no adapter '1'"),
    case("ask", "--model", "gpt-9", "Why?", code=1, answer="no model profile 'gpt-9'. Known"),
    case("ask", "--model", "starcoder2-3b@base", "Why?", code=1, answer="cannot answer questions"),
    case("ask", "--base", "--no-retrieval", "--new-tokens", "3", "Why?", answer="@base"),
    case("audit", code=1, answer=NOT_INGESTED),
    case("audit", "--removed", code=1, answer=NOT_INGESTED),
    case("estimate", code=2, answer="Missing option '--repositories'"),
    case("estimate", "--repositories", "3", answer="training .*smollm2-135m at .* tokens/s"),
    case("estimate", "--repositories", "3", "--gpus", "0", answer="packing"),
    case("estimate", "--repositories", "3", "--simulate", answer="bottleneck"),
    case("estimate", "--repositories", "3", "--model", "llama-3.1-8b", answer="training"),
    case("estimate", "--repositories", "3", "--model", "starcoder2-3b", code=1,
         answer="kedro run --params=model=starcoder2-3b,qlora_train.preflight_only=true"),
    case("estimate", "--repositories", "3", "--model", "x", code=1, answer="no model profile 'x'"),
    case("package", "--help"),
    case("rows", code=1, answer=NOT_INGESTED),
    case("run", "--pipeline=export", code=1, answer=NO_ADAPTER),
    case("run", "--pipeline=qlora_train", code=1, answer=NOT_INGESTED),
    case("run", "--pipeline=sequence_build", code=1, answer=NOT_INGESTED),
    case("run", "--pipeline=behavioral_eval", code=1, answer="Error: There is no .*kedro run"),
    case("run", "--pipeline=git_ingest", "--params=repository={repository}", answer="ingested"),
    case("run", "--tags=report", code=1, answer="Error: .*(git_ingest|kedro run|memory)"),
    case("run", "--only-missing-outputs", "--pipeline=export", code=1, answer=NO_ADAPTER),
    case("serve", "--port", "0", code=1, answer=NO_ADAPTER),
    case("serve", "--port", "0", "--model", "x", code=1, answer="no model profile 'x'"),
    case("serve", "--host", "0.0.0.0", code=1, answer="THE_BLOCK_API_KEY"),
    case("training-job", code=2, answer="Missing argument 'FOLDER'"),
    case("training-job", "job", "--processes", "2", code=1, answer="Error: There is no "),
    case("registry list", answer="- git_ingest"),
    case("registry describe", "export", answer="export_model"),
    case("catalog describe-datasets", answer="row_facts"),
    case("catalog list-patterns"),
    case("catalog resolve-patterns", answer="train/smollm2-135m"),
    case("viz build", answer="build"),
)  # fmt: skip


@pytest.fixture(scope="module")
def own_commands() -> dict[str, click.Command]:
    from the_block_llm.cli import cli

    return dict(leaf_commands(cli))


def leaf_commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaf_commands(command, f"{prefix}{name} ")
        elif command is not None:
            yield f"{prefix}{name}", command


def run_each(
    cases: list[Case], projects: list[Path], repository: Path, logs: Path
) -> list[tuple[int, str]]:
    """Run each case in its project; return exit codes and outputs."""
    lines = [
        "\t".join([
            str(project), str(logs / f"{number}.log"), "kedro", *one.command.split(),
            *(argument.format(repository=repository) for argument in one.arguments),
        ])
        for number, (one, project) in enumerate(zip(cases, projects, strict=True))
    ]  # fmt: skip
    completed = subprocess.run(
        [sys.executable, "-c", RUN_FORKED], input="\n".join(lines), text=True, check=False,
        cwd=projects[0], env={**os.environ, "COLUMNS": "400"}, capture_output=True, timeout=600,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr[-3000:]
    codes = [int(line) for line in completed.stdout.split()]
    outputs = [(logs / f"{number}.log").read_text() for number in range(len(cases))]
    return list(zip(codes, outputs, strict=True))


def problem_with(one: Case, code: int, output: str) -> str | None:
    flat = " ".join(output.split())
    if "Traceback" in output:
        return f"{one}: a traceback: {flat[-600:]}"
    if code != one.code:
        return f"{one}: exit code {code}, not {one.code}: {flat[-600:]}"
    if not re.search(one.answer, flat):
        return f"{one}: {one.answer!r} is not in: {flat[-600:]}"
    return None


def test_every_command_of_the_project_and_every_pipeline_is_tried(
    own_commands: dict[str, click.Command],
) -> None:
    tried = {one.command for one in CASES}
    assert set(own_commands) <= tried, "add a case for each new command"
    bootstrap_project(ROOT)
    arguments = {argument for one in CASES for argument in one.arguments}
    assert {f"--pipeline={name}" for name in pipelines if name != "__default__"} <= arguments


def test_every_command_has_a_help_text_with_an_example(
    own_commands: dict[str, click.Command],
) -> None:
    for name, command in own_commands.items():
        context = click.Context(command, info_name=name)
        assert command.get_help(context), name
        if name != "training-job":
            assert f"kedro {name.split()[0]}" in (command.help or ""), name


@pytest.mark.slow(seconds=70)
def test_each_command_is_the_first(tmp_path: Path, small_repository: Path) -> None:
    bootstrap_project(ROOT)
    known = {one.command for one in CASES}
    # What Kedro and its plugins add answers at least with its help. Jupyter and IPython are other
    # programs, and may not be installed.
    others = [
        case(name, "--help", answer="Usage")
        for group in (KedroCLI(ROOT).project_groups + KedroCLI(ROOT).global_groups)
        for name, _ in leaf_commands(group)
        if name not in known and not name.startswith(("jupyter", "ipython"))
    ]
    cases = [*CASES, *others]
    random.Random(1).shuffle(cases)
    projects = [copy_project(tmp_path / str(number)) for number in range(len(cases))]
    results = run_each(cases, projects, small_repository, tmp_path)
    problems = [problem_with(one, *result) for one, result in zip(cases, results, strict=True)]
    assert [problem for problem in problems if problem] == []
    for project in projects:
        assert not (project / "conf/local").exists() or not any((project / "conf/local").iterdir())


@pytest.mark.skipif(not ORDERS, reason="set COMMAND_ORDERS to the number of random orders")
@pytest.mark.parametrize("seed", range(ORDERS))
def test_commands_in_a_random_order_give_no_traceback(
    tmp_path: Path, small_repository: Path, seed: int
) -> None:
    cases = list(CASES)
    random.Random(seed).shuffle(cases)
    project = copy_project(tmp_path / "project")
    results = run_each(cases, [project] * len(cases), small_repository, tmp_path)
    for one, (code, output) in zip(cases, results, strict=True):
        assert "Traceback" not in output, (one, output[-2000:])
        # What another command has made may turn an error into an answer, not the reverse.
        assert code in {0, one.code}, (one, output[-2000:])
