"""`kedro ask` and `kedro serve` with the tables in an object store."""

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
from the_block_llm.datasets.report_files import write_report
from the_block_llm.errors import StorageError, TableError

TABLES = ("commits", "file_changes", "snapshot_files")


def upload(folder: Path, store: StorePath) -> None:
    for name in TABLES:
        table = ParquetTable(folder / "02_intermediate" / name)
        save_table(store / "02_intermediate" / name, table.schema, table.parts)
    for name in ("01_raw/repository.json", "02_intermediate/snapshot_counts.json"):
        (store / name).put_bytes((folder / name).read_bytes())


@pytest.fixture
def store(credentials: dict[str, Any]) -> StorePath:
    location = resolve_location("s3://tables/company", credentials)
    assert isinstance(location, StorePath)
    return location


def open_configured_index(parameters: dict[str, Any]) -> RepositoryIndex:
    params = AdvisorParams.model_validate(parameters["advisor"])
    return open_index(
        params.tables_folder, params.repository_file, params.index_folder, params.passage_characters
    )


def test_remote_tables_are_fetched_once_and_searched_like_local_ones(
    store: StorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables(tmp_path / "remote")
    upload(tmp_path / "remote", store)
    parameters = advisor_parameters(tmp_path / "local")
    expected = open_configured_index(advisor_parameters(tmp_path / "remote"))
    fetched: list[str] = []
    get_file = StorePath.get_file

    def get_and_count(self: StorePath, target: Path) -> None:
        fetched.append(self.name)
        get_file(self, target)

    monkeypatch.setattr(StorePath, "get_file", get_and_count)
    fetched_index = open_configured_index(with_local_tables(parameters, store))
    question = "what does consensus do when it stalls?"
    assert fetched_index.search(question, 3) == expected.search(question, 3) != []
    assert len(fetched) == 3
    with_local_tables(parameters, store)
    assert len(fetched) == 3, "no table has changed"

    head = {"repositories": [{"name": "chain", "head": "f" * 40}]}
    write_report(store / "01_raw" / "repository.json", head)
    assert (
        open_configured_index(with_local_tables(parameters, store)).fingerprint
        != fetched_index.fingerprint
    )


def begin_a_run(store: StorePath) -> None:
    """Write what git_ingest writes first."""
    description = {"repositories": [{"name": "chain", "head": "f" * 40}], "pinned_at": "now"}
    write_report(store / "01_raw" / "repository.json", description)


def test_while_remote_tables_are_replaced_the_copies_before_are_searched(
    store: StorePath, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tables(tmp_path / "remote")
    upload(tmp_path / "remote", store)
    parameters = advisor_parameters(tmp_path / "local")
    before = open_configured_index(with_local_tables(parameters, store))
    begin_a_run(store)
    during = open_configured_index(with_local_tables(parameters, store))
    assert during.fingerprint == before.fingerprint
    assert "still runs or was stopped" in caplog.text


def test_without_copies_an_unfinished_remote_ingest_is_an_error(
    store: StorePath, tmp_path: Path
) -> None:
    write_tables(tmp_path / "remote")
    upload(tmp_path / "remote", store)
    begin_a_run(store)
    with pytest.raises(TableError, match="still runs or was stopped"):
        with_local_tables(advisor_parameters(tmp_path / "local"), store)


def test_copies_that_were_interrupted_are_not_searched(
    store: StorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables(tmp_path / "remote")
    upload(tmp_path / "remote", store)
    parameters = advisor_parameters(tmp_path / "local")
    before = open_configured_index(with_local_tables(parameters, store))
    write_tables(tmp_path / "remote", {"src/new.rs": "fn new() {}\n"}, "f" * 40, "later")
    upload(tmp_path / "remote", store)

    def interrupted(self: StorePath, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StorePath, "get_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            with_local_tables(parameters, store)
    copies = before.folder.parent / ".tables"
    during = open_index(copies, copies / "repository.json", before.folder.parent, 200)
    assert during.fingerprint == before.fingerprint, "the tables of two runs are not mixed"
    after = open_configured_index(with_local_tables(parameters, store))
    assert list(after.known_names.line_counts) == ["src/new.rs"]


def test_local_tables_are_not_copied(tmp_path: Path) -> None:
    parameters = advisor_parameters(tmp_path)
    assert with_local_tables(parameters, tmp_path / "data") == parameters
    assert not list(tmp_path.iterdir())


def test_missing_tables_error_names_the_command(store: StorePath, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="nothing to search in s3://tables/company yet.*git_ing"):
        with_local_tables(advisor_parameters(tmp_path), store)


def test_unreachable_store_is_an_error(credentials: dict[str, Any], tmp_path: Path) -> None:
    client_kwargs = {"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1"}
    unreachable = resolve_location(
        "s3://tables/company",
        {
            **credentials,
            "client_kwargs": client_kwargs,
            "config_kwargs": {"retries": {"max_attempts": 0}},
            "retries": 1,
        },
    )
    with pytest.raises(StorageError, match="Check the network"):
        with_local_tables(advisor_parameters(tmp_path), unreachable)


def test_commands_fetch_tables_only_for_retrieval(
    store: StorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credentials: dict[str, Any]
) -> None:
    project = copy_project(tmp_path / "project")
    write_tables(tmp_path / "remote")
    upload(tmp_path / "remote", store)
    local = project / "conf" / "local"
    local.mkdir(exist_ok=True)
    (local / "parameters.yml").write_text(
        "storage: {folder: s3://tables/company, credentials: company_store}\n"
    )
    (local / "credentials.yml").write_text(json.dumps({"company_store": credentials}))
    tables_folders: list[str] = []

    def ask(parameters: Any, **options: Any) -> None:
        tables_folders.append(parameters(None)["advisor"]["tables_folder"])

    monkeypatch.setattr(cli.ask_command, "ask", ask)
    monkeypatch.chdir(project)
    metadata = bootstrap_project(project)
    command = cli.cli.commands["ask"]
    for options in ([], ["--no-retrieval"]):
        result = CliRunner().invoke(command, ["What?", *options], obj=metadata)
        assert result.exit_code == 0, result.output
    first, second = tables_folders
    assert ParquetTable(Path(first) / "commits").num_rows > 0
    assert second == str(project / "data/02_intermediate")
    shutil.rmtree(first)
