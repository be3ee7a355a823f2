"""The Kedro-Viz site in a browser: pipelines, nodes, previews, no errors."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from docs.tools.screenshots import BROWSERS, open_dataset, open_graph, serve_folder
from kedro.framework.project import configure_project, pipelines

from the_block_llm.viz.site import main

BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
# One dataset of each type, and the CSS selector of its preview.
PREVIEWS = {
    "file_changes": ".pipeline-metadata__preview table",
    "train_rows": ".pipeline-metadata__preview table",
    "sequence_report": ".pipeline-metadata__preview-json",
    "adapter": ".pipeline-metadata__preview-json",
    "training_plot": "img.pipeline-metadata__plot-image",
    "behavioral_page": ".pipeline-metadata__preview-html",
}

TOKEN = "t0k3n-of-ann"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(finished_project: Path) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        settings = finished_project / "conf/test/parameters.yml"
        previous = settings.read_text(encoding="utf-8")
        patched.setenv("KEDRO_ENV", "test")
        patched.chdir(finished_project)
        patched.setattr(sys, "argv", ["site", "--only-build"])
        settings.write_text(f"{previous}\nrepositories: ['https://ann:{TOKEN}@host.example/a']\n")
        try:
            main()  # what `make viz` does before it serves
        finally:
            settings.write_text(previous, encoding="utf-8")
        return finished_project / "build"


def test_layers_are_ordered_and_nodes_are_tagged(site: Path) -> None:
    graph = json.loads((site / "api/main").read_text(encoding="utf-8"))
    for pipeline in (site / "api/main", *(site / "api/pipelines").iterdir()):
        assert json.loads(pipeline.read_text(encoding="utf-8"))["layers"] == [
            "raw", "intermediate", "feature", "model_input", "models", "model_output", "reporting",
        ], pipeline.name  # fmt: skip
    assert [n["name"] for n in graph["nodes"] if n["type"] == "task" and not n["tags"]] == []


def test_tables_have_statistics_and_no_absolute_path_is_published(
    site: Path, finished_project: Path
) -> None:
    responses = {p: p.read_text(encoding="utf-8") for p in (site / "api/nodes").iterdir()}
    tables = [json.loads(t) for t in responses.values() if "ParquetTableDataset" in t]
    assert len(tables) == 9
    assert all(table["stats"]["rows"] and table["stats"]["file_size"] for table in tables)
    path = finished_project.as_posix().lstrip("/")
    assert not [p for p, text in responses.items() if f"{path}/" in text]


def test_credentials_in_a_parameter_are_not_published(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.is_file()]
    assert any(b"https://host.example/a" in path.read_bytes() for path in files)
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
def test_browser_shows_all_pipelines_nodes_and_previews(site: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    configure_project("the_block_llm")
    with sync_playwright() as playwright, serve_folder(site) as address:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console", lambda entry: errors.append(entry.text) if entry.type == "error" else None
        )
        page.on("requestfailed", lambda request: errors.append(request.url))

        for name, pipeline in pipelines.items():
            open_graph(page, f"{address}?pid={name}")
            expect(page.locator(".pipeline-list .dropdown__label")).to_have_text(name)
            listed = page.locator(".node-list-row button[title]").all()
            titles = {button.get_attribute("title") for button in listed}
            datasets = {d for d in pipeline.datasets() if not d.startswith("params:")}
            assert {node.name for node in pipeline.nodes} | datasets <= titles, name

        open_graph(page, address)
        for name, preview in PREVIEWS.items():
            open_dataset(page, name)
            page.locator(preview).first.wait_for()
        browser.close()
    assert errors == []
