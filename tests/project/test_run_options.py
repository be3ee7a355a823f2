"""Unknown names in the options of a run are errors that list the known ones."""

from pathlib import Path

import pytest
from kedro.framework.project import configure_project, pipelines
from kedro.io import DataCatalog, MemoryDataset

from the_block_llm.errors import ParameterError, RepositoryError, TableError
from the_block_llm.project.run_options import check_inputs, check_repository, check_run_options

configure_project("the_block_llm")
STORED = ("repository", "snapshot_files")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline": "qlora"}, "--pipeline: there is no pipeline qlora. Did you mean qlora_train"),
        (
            {"pipelines": ["export", "exprt"]},
            "--pipelines: there is no pipeline exprt. Did you mean export?",
        ),
        ({"node_names": ["jugde"]}, "--nodes: there is no node jugde. Did you mean judge?"),
        ({"pipeline": "export", "node_names": ["judge"]}, "there is no node judge"),
        ({"from_nodes": ["x"]}, "--from-nodes: there is no node x"),
        ({"to_outputs": ["commit"]}, "there is no dataset commit. Did you mean commits?"),
        ({"tags": ["reports"]}, "--tags: there is no tag reports. Did you mean report?"),
        ({"runner": "SerialRunner"}, "there is no runner SerialRunner. Did you mean Sequential"),
        ({"namespaces": ["probes"]}, "--namespaces: no node of this project has one"),
        ({"load_versions": {"adapter": "x"}}, "`kedro adapters list` shows them"),
    ],
)
def test_unknown_names_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        check_run_options(options)
    assert message in str(caught.value)


def test_known_names_pass() -> None:
    check_run_options(
        {
            "pipeline": None, "pipelines": ["git_ingest", "sequence_build"],
            "node_names": ["pack_train"], "to_outputs": ["documents"], "tags": ["rows"],
            "runner": "ThreadRunner",
        }
    )  # fmt: skip


def test_missing_in_memory_input_names_the_node_that_creates_it() -> None:
    pipeline = pipelines["behavioral_eval"].only_nodes("plan_probes")
    with pytest.raises(TableError, match="--nodes=check_suites,plan_probes"):
        check_inputs(pipeline, DataCatalog({name: MemoryDataset(1) for name in STORED}))
    stored = (*STORED, "probe_suites")
    check_inputs(pipeline, DataCatalog({name: MemoryDataset(1) for name in stored}))


def test_missing_input_names_the_pipeline_that_creates_it(tmp_path: Path) -> None:
    table = {
        "type": "the_block_llm.datasets.parquet_table_dataset.ParquetTableDataset",
        "filepath": str(tmp_path / "train"), "table": "ROWS",
    }  # fmt: skip
    catalog = DataCatalog.from_config(
        {name: {**table, "filepath": str(tmp_path / name)} for name in ("documents", "train_rows")}
    )
    with pytest.raises(TableError, match=r"no table in .*documents.* pipeline is sequence_build\."):
        check_inputs(pipelines["sequence_build"].only_nodes("pack_train"), catalog)


def test_missing_repository_is_an_error(tmp_path: Path, small_repository: Path) -> None:
    with pytest.raises(RepositoryError, match="the path does not exist"):
        check_repository(str(tmp_path / "nowhere"), [])
    with pytest.raises(RepositoryError, match="not a git repository"):
        check_repository(str(tmp_path), [])
    check_repository(str(small_repository), [])
    check_repository("https://example.org/one.git", [])
    check_repository(str(tmp_path / "nowhere"), [str(small_repository)])
    assert list(tmp_path.iterdir()) == []
