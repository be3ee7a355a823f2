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


def test_every_place_on_the_map_is_there_and_no_module_is_missing() -> None:
    places = TEXT.partition("## The map")[2].partition("## Habits")[0]
    named = set(re.findall(r"`([\w./<>]+)`", places))
    package = ROOT / "src/the_block_llm"
    for name in named - {"src/the_block_llm/pipelines/<name>/", "conf/local"}:
        inside = package / "pipelines/qlora_train"
        candidates = (ROOT / name, package / name, package / "models" / name, inside / name)
        beside = (ROOT / "conf/base" / name, package / "datasets" / name)
        assert any(path.exists() for path in (*candidates, *beside)), name
    unnamed = [
        path.name
        for path in package.iterdir()
        if not path.name.startswith("__") and not any(path.stem in name for name in named)
    ]
    assert unnamed == []


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
