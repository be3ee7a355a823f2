"""The four pipelines, run end to end on a small repository with a tiny seeded Llama."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
import pytest
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog
from tests.builders.project import run_project

from the_block_llm import schemas
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.models.adapter.manifest import list_adapters


@pytest.fixture(scope="module")
def finished(finished_project: Path) -> Path:
    return finished_project / "data"


@pytest.mark.slow
def test_every_output_exists_with_its_schema(finished: Path) -> None:
    tables = {
        "02_intermediate/commits": schemas.COMMITS,
        "02_intermediate/file_changes": schemas.FILE_CHANGES,
        "02_intermediate/snapshot_files": schemas.SNAPSHOT_FILES,
        "04_feature/documents/tiny": schemas.DOCUMENTS,
        "05_model_input/train/tiny": schemas.ROWS,
        "05_model_input/validation/tiny": schemas.ROWS,
        "05_model_input/held_out/tiny": schemas.ROWS,
        "07_model_output/completions/tiny": schemas.COMPLETIONS,
        "07_model_output/item_scores/tiny": schemas.ITEM_SCORES,
    }
    for path, schema in tables.items():
        table = ParquetTable(finished / path)
        assert table.num_rows > 0, path
        assert table.schema == schema, path
        # Other programs read the folder as it is.
        assert len(pd.read_parquet(finished / path)) == table.num_rows, path
        assert ds.dataset(finished / path).count_rows() == table.num_rows, path
    for report in ("ingest_report", "sequence_report", "training_metrics", "behavioral_report"):
        assert json.loads((finished / "08_reporting" / f"{report}.json").read_text()), report
    assert "<html" in (finished / "08_reporting/behavioral_report.html").read_text()
    assert (finished / "08_reporting/training_loss.png").stat().st_size > 10_000
    assert len(list_adapters(finished / "06_models/tiny")) >= 1


@pytest.mark.slow
def test_what_is_given_to_others_has_no_path_of_this_machine(
    finished: Path, shared_folder: Path
) -> None:
    adapters = [adapter.path for adapter in list_adapters(finished / "06_models/tiny")]
    given = [
        path for folder in (*adapters, finished / "08_reporting") for path in folder.rglob("*")
        if path.is_file()
    ]  # fmt: skip
    assert len(given) > 10
    private = (str(shared_folder), f"{Path.home()}/")
    for path in given:
        content = path.read_bytes()
        assert not [text for text in private if text.encode() in content], path


@pytest.mark.slow
def test_training_reduces_the_validation_loss(finished: Path) -> None:
    metrics = json.loads((finished / "08_reporting/training_metrics.json").read_text())
    assert metrics["validation_loss_after"] < metrics["validation_loss_before"]


@pytest.mark.slow
def test_rows_are_complete_and_splits_are_disjoint(finished: Path) -> None:
    documents = {
        row["document_id"]: row["split"]
        for row in ParquetTable(finished / "04_feature/documents/tiny").rows(
            ["document_id", "split"]
        )
    }
    for split in schemas.SPLITS:
        rows = list(ParquetTable(finished / f"05_model_input/{split}/tiny").rows())
        assert all(sum(row["segment_lengths"]) == row["n_tokens"] for row in rows)
        assert {documents[d] for row in rows for d in row["document_ids"]} == {split}


@pytest.mark.slow
def test_a_single_pipeline_runs_from_stored_datasets(
    finished_project: Path, finished: Path
) -> None:
    before = list_adapters(finished / "06_models/tiny")
    run_project(finished_project, "qlora_train")
    after = list_adapters(finished / "06_models/tiny")
    assert [a.path for a in after[:-1]] == [a.path for a in before]


@pytest.mark.slow
def test_every_preview_opens(finished_project: Path) -> None:
    bootstrap_project(finished_project)
    with KedroSession.create(finished_project, env="test") as session:
        catalog: DataCatalog = session.load_context().catalog
        # Other pipelines, such as export, have not run, so their datasets do not exist.
        for name in sorted(pipelines["__default__"].datasets() & set(catalog.keys())):
            dataset = catalog.get(name)
            if hasattr(dataset, "preview"):
                assert dataset.preview(), name
