"""The documentation builds without a warning, and each command in it is one that a test runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(p for p in (ROOT / "docs").rglob("*.md"))
FENCE = re.compile(
    r"(?:<!-- needs: (?P<needs>[^>]+) -->\n)?```(?P<language>[a-z]*)\n(?P<body>.*?)```", re.DOTALL
)
PROGRAMS = ("kedro ", "make ", "python benchmarks/", "source ", "git diff ", "echo ")

# Commands as they stand in the pages, and the test that runs them or their like on something
# small. A page of another command fails here: add the command to a test, or say above its fence
# what it needs: <!-- needs: a CUDA GPU -->.
RUN_BY = {
    "test_readme.py": (
        r"make demo",
        r"source \.venv/bin/activate",
        r"kedro run( --params=repository=PATH)?",
    ),
    "docs/test_commands.py": (
        r"kedro run --pipelines?=git_ingest( --params=repository=(PATH|PATH_OR_URL))?",
        r"kedro run --pipelines=git_ingest,sequence_build --params=repository=PATH",
        r"kedro run --pipeline=(sequence_build|qlora_train|behavioral_eval|export)",
        r"kedro run --pipeline=qlora_train --params=(repository=PATH,)?qlora_train\.\S+",
        r"kedro run --nodes=check_suites,plan_probes,judge,render_page",
        r"kedro rows --row \d+.*",
        r"kedro audit .*",
        r"kedro adapters (list|compare|prune).*",
    ),
    "test_graph_site.py": (r"make viz",),
    "advisor/test_ask.py": (r"kedro ask.*", r"git diff \| kedro ask.*", r"echo .* \| kedro ask.*"),
    "advisor/test_serve_command.py": (r"kedro serve.*",),
}
# Measurements, by hand on an idle machine: minutes to hours. The pages give their figures.
BY_HAND = (r"python benchmarks/.*",)
# What a reader types besides, and no test of ours could say anything about.
OF_OTHERS = (r"export \w+=.*",)


def commands(page: Path) -> list[tuple[str, str | None]]:
    """Each command of a page, with what it needs."""
    found = []
    for fence in FENCE.finditer(page.read_text(encoding="utf-8")):
        if fence["language"] not in {"", "console", "bash", "sh"}:
            continue
        for line in fence["body"].splitlines():
            command = line.removeprefix("$ ")
            if line.startswith("$ ") or line.startswith(PROGRAMS):
                found.append((re.sub(r"\s+#.*", "", command).strip(), fence["needs"]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_command_is_run_by_a_test_or_says_what_it_needs(page: Path) -> None:
    known = [pattern for patterns in RUN_BY.values() for pattern in patterns]
    unknown = [
        command
        for command, needs in commands(page)
        if needs is None
        and not any(re.fullmatch(p, command) for p in (*known, *BY_HAND, *OF_OTHERS))
    ]
    assert unknown == []


def test_the_tests_named_above_are_there_and_commands_are_found() -> None:
    assert all((ROOT / "tests" / name).is_file() for name in RUN_BY)
    assert sum(len(commands(page)) for page in PAGES) > 25


# Being written beside this; a name that is there by now is to be taken off this list.
COMING = {
    "how_we_could_be_fooled.md",
    "memory_and_speed.md",
    "reading_the_report.md",
    "scale_out.md",
}


def test_every_page_of_the_menu_is_there() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = set(re.findall(r": (\S+\.md)$", menu, re.MULTILINE))
    generated = {page for page in pages if page.startswith("reference/")}
    there = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES}
    assert pages - generated - there <= COMING
    assert len(generated) == 3


@pytest.mark.slow
def test_the_site_builds_strictly_with_every_link_and_anchor(tmp_path: Path) -> None:
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
