"""What CONTRIBUTING.md shows works as it stands there, and what it names is there."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import yaml
from tests.builders.project import ROOT, copy_project, run_project

from the_block_llm import schemas
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.datasets.parquet_table_dataset import ParquetTableDataset
from the_block_llm.pipelines.behavioral_eval.probes.suites import parse_suite
from the_block_llm.project.config_loader import project_parameters

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def snippets(heading: str) -> list[str]:
    section = TEXT.partition(f"### … {heading}\n")[2]
    section = re.split(r"^##+ ", section, flags=re.MULTILINE)[0]
    found = re.findall(r"```(?:python|yaml)\n(.*?)```", section, re.DOTALL)
    assert found, heading
    assert all(len(text.splitlines()) < 10 for text in found), "under ten lines each"
    return found


def section(heading: str) -> str:
    return TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_every_file_that_a_change_begins_with_exists() -> None:
    rows = [line for line in section("Where does a change go?").splitlines() if "`src/" in line]
    files = [re.findall(r"`(src/[\w./]+)`", row) for row in rows]
    assert len(rows) == 12
    assert [found for found in files if len(found) != 1 or not (ROOT / found[0]).is_file()] == []


def test_the_map_names_every_folder_and_module_and_no_other() -> None:
    package = ROOT / "src/the_block_llm"
    named: set[str] = set()
    for row in section("The map").partition("| beside the package")[0].splitlines():
        if not row.startswith("| `"):
            continue
        first, second = re.split(r"\s*\|\s*", row.strip("| "))[:2]
        tops = re.findall(r"`([\w/]+(?:\.py)?)`", first)
        named.update(tops)
        if len(tops) == 1 and tops[0].endswith("/"):
            inside = re.findall(r"`([\w]+/)`", second)
            below = re.findall(r"\(with (.*?)\)", second)
            deeper = {name for text in below for name in re.findall(r"`(\w+/)`", text)}
            named.update(tops[0] + name for name in inside if name not in deeper)
    there = {f"{p.parent.relative_to(package).as_posix()}/" for p in package.rglob("__init__.py")}
    there = {name for name in there if name.count("/") <= (3 if name.startswith("pipe") else 2)}
    there |= {path.name for path in package.glob("*.py") if path.name != "__init__.py"}
    assert named == there - {"./", "pipelines/"}


def test_every_place_beside_the_package_is_there() -> None:
    rows = section("The map").partition("| beside the package")[2]
    names = [name for row in rows.splitlines()[2:] for name in re.findall(r"^\| (.*?) \|", row)]
    places = [place for name in names for place in re.findall(r"`([^`]+)`", name)]
    assert len(places) > 8
    assert [place for place in places if not (ROOT / place).exists()] == []


GLOSSARY = ROOT / "docs/glossary.md"


def test_every_term_of_the_glossary_leads_to_a_module() -> None:
    rows = re.findall(
        r"^\| (.*?) \|.*\| (\S+) \|$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE
    )
    terms = {term: where.strip("`") for term, where in rows if term not in {"term", "---"}}
    assert len(terms) > 40
    package = ROOT / "src/the_block_llm"
    assert {t: where for t, where in terms.items() if not (package / where).is_file()} == {}


@pytest.mark.slow
def test_a_kind_of_document_reaches_the_rows(
    tmp_path: Path, finished_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from the_block_llm.pipelines.sequence_build.documents.corpus import Corpus

    given: dict[str, Any] = {}
    exec(snippets("a kind of document")[0], given)
    # The toy repository has no TODO, so the first line of each file becomes one.
    todo_chat, before = given["todo_chat"], Corpus._file_chats

    def with_todos(self: Corpus, file: Any, split: Any, at: Any) -> Iterator[Any]:
        yield from before(self, file, split, at)
        text = "\n".join(f"TODO {line}" for line in file.text.splitlines()[:1])
        yield from todo_chat(SimpleNamespace(path=file.path, text=text), split, at)

    monkeypatch.setattr(Corpus, "_file_chats", with_todos)
    project = tmp_path / "project"
    shutil.copytree(finished_project, project)
    run_project(project, "sequence_build")
    rows = ParquetTable(project / "data/05_model_input/train/tiny").rows(["document_ids"])
    assert any(name.startswith("chat/todo/") for row in rows for name in row["document_ids"])


def test_a_suite_is_read() -> None:
    suite = parse_suite("releases", snippets("a probe suite")[0])
    assert [probe.id for probe in suite.probes] == ["release"]


def test_a_profile_is_known(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    (project / "conf/local/parameters_models.yml").write_text(snippets("a model profile")[0])
    profiles = project_parameters(project)["models"]
    assert profiles["my-model"]["lora"]["r"] == 16
    assert {"my-model", "smollm2-135m", "llama-3.1-8b"} <= set(profiles)


def test_a_dataset_saves_loads_previews_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, entry = snippets("a dataset")
    given: dict[str, Any] = {}
    exec(schema, {**vars(schemas)}, given)
    monkeypatch.setattr(schemas, "OWNERS", given["OWNERS"], raising=False)
    monkeypatch.chdir(tmp_path)
    options = yaml.safe_load(entry)["owners"]
    assert options.pop("type") == (
        f"{ParquetTableDataset.__module__}.{ParquetTableDataset.__qualname__}"
    )
    dataset = ParquetTableDataset(**options)
    rows = [{"path": "a.py", "author_id": "x"}]
    dataset.save(iter([pa.RecordBatch.from_pylist(rows, given["OWNERS"])]))
    assert list(dataset.load().rows()) == rows
    assert dataset.preview()["data"] == [["a.py", "x"]]
    assert dataset.statistics()["rows"] == 1


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="needs the .venv of make setup")
def test_the_checks_before_a_commit_run_offline(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / ".venv/bin/pre-commit", "run", "--all-files"],
        cwd=ROOT, text=True, capture_output=True, check=False, timeout=300,
        env={**os.environ, "PRE_COMMIT_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
