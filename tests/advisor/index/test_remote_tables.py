"""`kedro ask` and `kedro serve` where the tables lie in an object store."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kedro.framework.startup import bootstrap_project
from tests.builders.advised_repository import advisor_parameters, write_tables
from tests.builders.project import copy_project

from the_block_llm import cli
from the_block_llm.advisor.index.remote_tables import with_local_tables
from the_block_llm.advisor.index.repository_index import RepositoryIndex, open_index
from the_block_llm.advisor.params import AdvisorParams
from the_block_llm.datasets.object_store import StorePath, resolve_location
from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.errors import StorageError, TableError

TABLES = ("commits", "file_changes", "snapshot_files")


def put(folder: Path, store: StorePath) -> None:
    for name in TABLES:
        table = ParquetTable(folder / "02_intermediate" / name)
        save_table(store / "02_intermediate" / name, table.schema, table.parts)
    described = (folder / "01_raw/repository.json").read_bytes()
    (store / "01_raw" / "repository.json").put_bytes(described)


@pytest.fixture
def store(credentials: dict[str, Any]) -> StorePath:
    found = resolve_location("s3://tables/company", credentials)
    assert isinstance(found, StorePath)
    return found


def opened(parameters: dict[str, Any]) -> RepositoryIndex:
    params = AdvisorParams.model_validate(parameters["advisor"])
    return open_index(
        params.tables_folder, params.repository_file, params.index_folder, params.passage_characters
    )


def test_the_same_is_found_as_in_tables_of_this_machine_and_nothing_is_fetched_twice(
    store: StorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables(tmp_path / "there")
    put(tmp_path / "there", store)
    here = advisor_parameters(tmp_path / "here")
    local = opened(advisor_parameters(tmp_path / "there"))
    fetched: list[str] = []
    get_file = StorePath.get_file

    def counted(self: StorePath, target: Path) -> None:
        fetched.append(self.name)
        get_file(self, target)

    monkeypatch.setattr(StorePath, "get_file", counted)
    found = opened(with_local_tables(here, store))
    question = "what does consensus do when it stalls?"
    assert found.search(question, 3) == local.search(question, 3) != []
    assert len(fetched) == 3
    with_local_tables(here, store)
    assert len(fetched) == 3, "everything was there"

    (store / "01_raw" / "repository.json").put_bytes(
        json.dumps({"repositories": [{"name": "chain", "head": "f" * 40}]}).encode()
    )
    assert opened(with_local_tables(here, store)).fingerprint != found.fingerprint


def test_tables_of_this_machine_are_left_where_they_are(tmp_path: Path) -> None:
    parameters = advisor_parameters(tmp_path)
    assert with_local_tables(parameters, tmp_path / "data") == parameters
    assert not list(tmp_path.iterdir())


def test_before_git_ingest_it_says_what_to_run(store: StorePath, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="nothing to search in s3://tables/company yet.*git_ing"):
        with_local_tables(advisor_parameters(tmp_path), store)


def test_a_store_that_does_not_answer(credentials: dict[str, Any], tmp_path: Path) -> None:
    where = {"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1"}
    silent = resolve_location(
        "s3://tables/company",
        {**credentials, "client_kwargs": where, "config_kwargs": {"retries": {"max_attempts": 0}},
         "retries": 1},
    )  # fmt: skip
    with pytest.raises(StorageError, match="Check the network"):
        with_local_tables(advisor_parameters(tmp_path), silent)


def test_the_commands_fetch_and_without_retrieval_ask_no_store(
    store: StorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credentials: dict[str, Any]
) -> None:
    project = copy_project(tmp_path / "project")
    write_tables(tmp_path / "there")
    put(tmp_path / "there", store)
    local = project / "conf" / "local"
    local.mkdir(exist_ok=True)
    (local / "parameters.yml").write_text(
        "storage: {folder: s3://tables/company, credentials: company_store}\n"
    )
    (local / "credentials.yml").write_text(json.dumps({"company_store": credentials}))
    asked: list[str] = []

    def ask(parameters: Any, **options: Any) -> None:
        asked.append(parameters(None)["advisor"]["tables_folder"])

    monkeypatch.setattr(cli.ask_command, "ask", ask)
    monkeypatch.chdir(project)
    metadata = bootstrap_project(project)
    command = cli.cli.commands["ask"]
    for options in ([], ["--no-retrieval"]):
        result = CliRunner().invoke(command, ["What?", *options], obj=metadata)
        assert result.exit_code == 0, result.output
    first, second = asked
    assert ParquetTable(Path(first) / "commits").num_rows > 0
    assert second == str(project / "data/02_intermediate")
    shutil.rmtree(first)
